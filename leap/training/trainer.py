"""The Hugging Face Trainer with LEAP's loss, completion markers and progress lines."""

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from leap.data.chat import IGNORED
from leap.models.checkpoints import MARKER, checkpoint_step, find_checkpoints
from leap.progress import duration
from leap.records.files import write_json
from leap.training.lora import has_adapters, load_adapters, name_base
from leap.training.parts import set_part_rates
from leap.training.recipe import Part
from leap.training.stopping import best_step


class LeapTrainer(Trainer):
    """Cross-entropy over the label tokens, each weighing the same in an optimiser step, whatever batch it lies in."""

    loss_is_scaled_for_ga = True  # the loss is divided by the label tokens of all accumulated batches

    def __init__(
        self, *arguments: Any, part_rates: Mapping[Part, float] | None = None, base_name: str = "", **options: Any
    ) -> None:
        """`base_name` is what checkpoints of adapters call their base model."""
        super().__init__(*arguments, **options)
        self._part_rates, self._base_name = part_rates or {}, base_name
        self._held_out = torch.zeros(2, dtype=torch.float64)
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
        losses, _, outputs = _token_losses(model, inputs)
        if num_items_in_batch is None:
            num_items_in_batch, processes = losses.numel(), 1
        else:
            processes = self.accelerator.num_processes  # gradients are averaged over processes, tokens counted over all
        loss = losses.sum() / num_items_in_batch * processes
        if model.training and not loss.requires_grad:  # the LLM is frozen, and no row of the batch has a picture
            loss = loss + 0 * sum(weight.sum() for weight in model.parameters() if weight.requires_grad)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser, with a learning rate of its own for each part that has one."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if new:
            set_part_rates(optimizer, self.model if model is None else model, self._part_rates)
        return optimizer

    def evaluation_loop(self, *arguments: Any, metric_key_prefix: str = "eval", **options: Any) -> Any:
        """The held-out loss is the mean over all label tokens of the set: batches have unlike numbers of them.

        Training goes on with the random numbers it would have had without an evaluation.
        """
        self._held_out.zero_()
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            output = super().evaluation_loop(*arguments, metric_key_prefix=metric_key_prefix, **options)
        total, tokens = self._held_out.tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = total / tokens
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Evaluation needs the losses alone, never the logits."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, rows, _ = _token_losses(model, inputs)
        sums = torch.zeros(len(inputs["input_ids"]), 2, dtype=torch.float64, device=losses.device)
        sums.index_add_(0, rows, torch.stack([losses.double(), torch.ones_like(losses).double()], dim=1))
        # Row by row, since processes get the first rows once more where the last batches would be unlike: cut off here.
        self._held_out += self.accelerator.gather_for_metrics(sums).sum(0).cpu()
        return losses.mean(), None, None

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if has_adapters(self.model) and self.args.should_save:  # the library calls this in every process
            name_base(Path(output_dir or self.args.output_dir), self._base_name)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.model if model is None else model
        if has_adapters(target):
            load_adapters(target, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def _token_losses(model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Any]:
    """(cross-entropy of each label token [labels], the row of the batch that it lies in [labels], model outputs)."""
    targets = inputs.pop("labels")[:, 1:]  # position t predicts token t + 1
    wanted = targets != IGNORED
    columns = wanted.any(dim=0).nonzero().squeeze(1)  # only these positions go through the vocabulary matrix
    outputs = model(**inputs, logits_to_keep=columns, use_cache=False)
    chosen = wanted[:, columns]
    logits = outputs.logits[chosen].float()
    losses = nn.functional.cross_entropy(logits, targets[:, columns][chosen], reduction="none")
    return losses, chosen.nonzero()[:, 0], outputs


class NoInputGradients(TrainerCallback):
    """Checkpointing makes the library want gradients at every input, so in frozen parts too; nothing needs them."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if getattr(model, "_require_grads_hooks", None):
            model.disable_input_require_grads()


class Completion(TrainerCallback):
    """Marks a checkpoint complete when all of it is on disk, then removes the oldest beyond the limit."""

    def __init__(self, identity: dict[str, Any], keep: int | None) -> None:
        self._identity, self._keep = identity, keep

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a resumed state still has the old run's save and log steps

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process has written its random state
        if not state.is_world_process_zero:
            return
        run = Path(args.output_dir)
        write_json(run / f"checkpoint-{state.global_step}" / MARKER, {**self._identity, "step": state.global_step})
        complete = [folder for folder in find_checkpoints(run) if (folder / MARKER).is_file()]
        best = best_step(state.log_history, [checkpoint_step(folder) or 0 for folder in complete])
        for old in complete[: -self._keep] if self._keep else []:
            if checkpoint_step(old) == best:
                continue  # the lowest held-out loss of those that are left
            (old / MARKER).unlink()  # first, so that a kill in between leaves no half checkpoint that looks whole
            shutil.rmtree(old)


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
