"""LEAP's loss and progress lines on the Hugging Face Trainer."""

import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from leap.data.chat import IGNORED
from leap.progress import duration
from leap.training.checkpointing import CheckpointingTrainer


class LeapTrainer(CheckpointingTrainer):
    """Cross-entropy over the label tokens, each weighing the same in an optimiser step, whatever batch it lies in."""

    loss_is_scaled_for_ga = True  # the loss is divided by the label tokens of all accumulated batches

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Qwen3-VL declares that its own loss takes no token count, and the Trainer would then count none for ours.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The summed loss of this batch over the label tokens of the whole step (mean loss in evaluation)."""
        inputs.pop("rows", None)  # for errors, no input of the model
        targets = inputs.pop("labels")[:, 1:]  # position t predicts token t + 1
        wanted = targets != IGNORED
        columns = wanted.any(dim=0).nonzero().squeeze(1)  # only these positions go through the vocabulary matrix
        outputs = model(**inputs, logits_to_keep=columns, use_cache=False)
        chosen = wanted[:, columns]
        logits = outputs.logits[chosen].float()
        total = nn.functional.cross_entropy(logits, targets[:, columns][chosen], reduction="sum")
        if num_items_in_batch is None:
            num_items_in_batch, processes = chosen.sum(), 1
        else:
            processes = self.accelerator.num_processes  # gradients are averaged over processes, tokens counted over all
        loss = total / num_items_in_batch * processes
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Evaluation needs the loss alone, never the logits."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None


class ProgressLines(TrainerCallback):
    """Loss, rate and time left: one live line on a terminal, one line a log step elsewhere."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._tell(args, state, f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.2e}")
        elif "eval_loss" in logs:
            self._tell(args, state, f"held-out loss {logs['eval_loss']:.4f}", keep=True)

    def _tell(self, args: Any, state: Any, what: str, keep: bool = False) -> None:
        steps, seconds = state.global_step - self._first, time.monotonic() - self._started
        rows = steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        left = duration((state.max_steps - state.global_step) * seconds / max(steps, 1))
        line = f"step {state.global_step}/{state.max_steps}  {what}  {rows / seconds:.1f} rows/s  {left} left"
        live = sys.stderr.isatty() and not keep and state.global_step < state.max_steps
        print(f"\r\x1b[K{line}" if sys.stderr.isatty() else line, end="" if live else "\n", file=sys.stderr, flush=True)
