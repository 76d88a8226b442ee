"""A run's loss, or its reward, as an image in its folder, drawn while it trains."""

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from leap.models.checkpoints import LogEntry
from leap.report.curves import Loss, training_loss, training_reward
from leap.report.style import save

IMAGE, REWARD_IMAGE = "training_loss", "training_reward"
_SHARE = 0.02  # of a run's time, at most: steps wait while a figure is drawn
_FIRST = 0.5  # seconds, about what the first one takes


class LossPlot(TrainerCallback):
    """Draws the losses logged so far at the end, and at saves while that takes no more than _SHARE of the time."""

    def __init__(self) -> None:
        self._begin, self._drawing = time.monotonic(), _FIRST

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        before = time.monotonic()
        if self._drawing <= _SHARE * (before - self._begin):
            self._draw(args, state)
            self._drawing += time.monotonic() - before

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(args, state)

    def _draw(self, args: Any, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        log = [LogEntry.model_validate(entry) for entry in state.log_history]
        loss = Loss.of_log(log, Path(args.output_dir) / f"checkpoint-{state.global_step}")
        if loss.training or loss.validation:
            save(training_loss(loss), Path(args.output_dir) / IMAGE, ["png"])


class RewardPlot(LossPlot):
    """The same of the rewards: the loss of a run that learns from them is near 0 whatever it learns."""

    def _draw(self, args: Any, state: Any) -> None:
        run = Path(args.output_dir)
        if not state.is_world_process_zero:
            return
        if figure := training_reward(state.log_history, f"Rewards up to step {state.global_step}"):
            save(figure, run / REWARD_IMAGE, ["png"])
