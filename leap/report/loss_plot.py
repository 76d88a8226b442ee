"""A run's loss as an image in its folder, drawn while it trains."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from leap.models.checkpoints import LogEntry
from leap.report.curves import Loss, training_loss
from leap.report.style import save

IMAGE = "training_loss"


class LossPlot(TrainerCallback):
    """Draws the losses logged so far at every save and at the end."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(args, state)

    def _draw(self, args: Any, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        log = [LogEntry.model_validate(entry) for entry in state.log_history]
        loss = Loss.of_log(log, Path(args.output_dir) / f"checkpoint-{state.global_step}")
        if loss.training or loss.validation:
            save(training_loss(loss), Path(args.output_dir) / IMAGE, ["png"])
