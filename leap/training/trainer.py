"""LEAP's packs, loss and progress lines on the Hugging Face Trainer."""

import gc
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from leap.data.chat import IGNORED
from leap.data.packing import Packs
from leap.errors import LeapError
from leap.progress import duration
from leap.terminal import overwrite
from leap.training.checkpointing import CheckpointingTrainer
from leap.training.fit import keeps_gradients
from leap.training.lora import has_adapters, name_base
from leap.training.optimizer_state import is_sharded
from leap.training.parts import set_part_rates
from leap.training.recipe import Part
from leap.training.sharding import Sharded
from leap.workers import end_with_parent

_BUCKET = 400  # MB of gradients that processes sum at once: small sums, more of them, take the GPU from its arithmetic
_AHEAD = 3  # packs that each worker may have ready


class LeapTrainer(CheckpointingTrainer):
    """Cross-entropy over the label tokens, each weighing the same in an optimiser step, whatever batch it lies in."""

    loss_is_scaled_for_ga = True  # the loss is divided by the label tokens of all accumulated batches

    def __init__(
        self, *arguments: Any, part_rates: Mapping[Part, float] | None = None, base_name: str = "", **options: Any
    ) -> None:
        """`base_name` is what checkpoints of adapters call their base model."""
        super().__init__(*arguments, **options)
        self._part_rates, self._base_name = part_rates or {}, base_name
        # Qwen3-VL declares that its own loss takes no token count, and the Trainer would then count none for ours.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader:
        """The process's packs of the whole run, as one epoch to the Trainer, which skips them on its own to resume."""
        return self._load(self.train_dataset)

    def get_eval_dataloader(self, eval_dataset: Packs | None = None) -> DataLoader:
        return self._load(eval_dataset or self.eval_dataset)

    def _load(self, packs: Packs) -> DataLoader:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            packs,
            batch_sampler=BatchSampler(SequentialSampler(packs), batch_size=1, drop_last=False),
            collate_fn=_only,
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
            worker_init_fn=end_with_parent,
            generator=torch.Generator().manual_seed(self.args.seed),  # else it would take from the run's random numbers
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, int | None]:
        """A step's packs and the label tokens of all of them, which every process knows from the plan."""
        batches = list(islice(epoch_iterator, num_batches))
        self._batches, self._begun = batches, 0
        return batches, batches[0]["step_label_tokens"] if batches else None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's, without its rows a second, which it counts as if every pack were a batch."""
        self._count_epochs()
        logs.pop("train_samples_per_second", None)
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, *arguments: Any, **options: Any) -> None:
        self._count_epochs()
        super()._maybe_log_save_evaluate(*arguments, **options)

    def _count_epochs(self) -> None:
        """Those of the data: to the Trainer the whole run is one."""
        self.state.epoch = self.state.global_step / self.train_dataset.plan.steps_per_epoch

    def _prepare_input(self, data: Any) -> Any:
        """To the device without waiting: the memory is pinned."""
        if isinstance(data, Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Tensor:
        """As the Trainer's; where the device's memory ends, this step's packs are done again in smaller ones."""
        self._begun += 1
        try:
            return super().training_step(model, dict(inputs), *arguments, **options)
        except torch.OutOfMemoryError:
            if not self._can_repeat(synced=self._begun == len(self._batches)):
                raise
        # Not within `except`: the error holds on to all that was computed.
        return self._in_smaller_packs(model, *arguments, **options)

    def _can_repeat(self, synced: bool) -> bool:
        """Whether this rank can repeat what failed alone: not once the gradients of all ranks are being summed."""
        if is_sharded(self.model) or self.is_deepspeed_enabled:
            return False
        return self.accelerator.num_processes == 1 or not (synced and self._in_backward)

    def _in_smaller_packs(self, model: nn.Module, *arguments: Any, **options: Any) -> Tensor:
        """Drop the step's gradients and do its packs again up to this one, each divided until they fit.

        Returns the loss of this one; those before it are counted already. Raises OutOfMemoryError where rows one by
        one do not fit.
        """
        done = self._batches[: self._begun]
        pieces = [[batch["rows"]] for batch in done]  # of each pack
        while any(len(rows) > 1 for parts in pieces for rows in parts):
            pieces = [[half for rows in parts for half in self.train_dataset.halves(rows)] for parts in pieces]
            print(
                f"rank {self.args.process_index}: out of memory in step {self.state.global_step + 1}: its rows so far "
                f"are done again in {sum(map(len, pieces))} batches instead of {len(done)}",
                file=sys.stderr,
                flush=True,
            )
            model.zero_grad(set_to_none=False)  # DDP's gradients are parts of its buckets
            gc.collect()
            torch.cuda.empty_cache()
            synced = False
            try:
                for parts, batch in zip(pieces, done, strict=True):
                    losses = []
                    for rows in parts:
                        synced = len(done) == len(self._batches) and rows is pieces[-1][-1]
                        with nullcontext() if synced else self.accelerator.no_sync(model):
                            again = {**self.train_dataset.batch(rows), "rows": rows} if rows else dict(batch)
                            losses.append(super().training_step(model, again, *arguments, **options))
                return torch.stack(losses).sum()
            except torch.OutOfMemoryError:
                if not self._can_repeat(synced):
                    raise
        raise torch.OutOfMemoryError("rows one by one do not fit")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The summed loss of this batch over the label tokens of the whole step."""
        assert num_items_in_batch is not None  # every pack brings its step's count
        self._in_backward = False
        total = _summed_loss(model, inputs)
        if model.training and not total.requires_grad:  # the LLM is frozen, and no row of the batch has a picture
            total = total + 0 * sum(weight.sum() for weight in model.parameters() if weight.requires_grad)
        self._in_backward = True
        # Gradients are averaged over processes, tokens counted over all of them.
        return total / num_items_in_batch * self.accelerator.num_processes

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser, with a learning rate of its own for each part that has one."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if new:
            set_part_rates(optimizer, self.model if model is None else model, self._part_rates)
        return optimizer

    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *_: Any, metric_key_prefix: str = "eval", **__: Any
    ) -> EvalLoopOutput:
        """The held-out loss: the mean over all label tokens of the set.

        Training goes on with the random numbers it would have had without an evaluation.
        """
        packs: Any = dataloader.dataset
        total = torch.zeros((), dtype=torch.float64, device=self.args.device)
        self.model.eval()
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices), torch.no_grad():
            for batch in dataloader:
                with self.compute_loss_context_manager():
                    total += self._validation_loss(batch)
        loss = self.accelerator.reduce(total, "sum").item() / packs.plan.cost.label_tokens.sum()
        metrics = {f"{metric_key_prefix}_loss": float(loss)}
        return EvalLoopOutput(None, None, metrics, len(packs.plan.cost.tokens))

    def _validation_loss(self, batch: dict[str, Any]) -> Tensor:
        try:
            return _summed_loss(self.model, self._prepare_inputs(batch))
        except torch.OutOfMemoryError as error:
            raise LeapError("validation ran out of memory: lower --per_device_eval_batch_size") from error

    def compute_loss_context_manager(self) -> Any:
        """A divided model has no autocast of accelerate's around its forward."""
        return self.accelerator.autocast() if is_sharded(self.model) else super().compute_loss_context_manager()

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not is_sharded(model):  # each part is where it belongs
            super()._move_model_to_device(model, device)

    def _wrap_model(self, model: nn.Module, training: bool = True, **options: Any) -> nn.Module:
        """As the Trainer's; DDP's buckets are to be the gradients themselves, not a second copy of them."""
        if training and model is self.model and is_sharded(model):
            return Sharded(
                model, keeps_gradients(model, self.args.device)
            )  # as it is not `self.model`, accelerate does not wrap it
        wrapped = super()._wrap_model(model, training=training, **options)
        if handler := getattr(self.accelerator, "ddp_handler", None):
            handler.gradient_as_bucket_view = True
            handler.bucket_cap_mb = _BUCKET
        return wrapped

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if has_adapters(self.model) and self.args.should_save:  # the library calls this in every process
            name_base(Path(output_dir or self.args.output_dir), self._base_name)


def _summed_loss(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The cross-entropy of a batch's label tokens, summed."""
    inputs = {name: value for name, value in inputs.items() if name not in ("rows", "step_label_tokens")}
    return model(**inputs) if "targets" in inputs else _padded_loss(model, inputs)


def _padded_loss(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """That of padded rows, by the library's forward."""
    targets = inputs.pop("labels")[:, 1:]  # position t predicts token t + 1
    wanted = targets != IGNORED
    columns = wanted.any(dim=0).nonzero().squeeze(1)  # only these positions go through the vocabulary matrix
    logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    chosen = wanted[:, columns]
    return nn.functional.cross_entropy(logits[chosen].float(), targets[:, columns][chosen], reduction="sum")


def _only(batches: list[dict[str, Any]]) -> dict[str, Any]:
    (batch,) = batches
    return batch


class NoInputGradients(TrainerCallback):
    """Checkpointing makes the library want gradients at every input, so in frozen parts too; nothing needs them."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if getattr(model, "_require_grads_hooks", None):
            model.disable_input_require_grads()


class ProgressLines(TrainerCallback):
    """Loss, rate and time left: one live line on a terminal, one line a log step elsewhere."""

    def __init__(self, rows_before: Callable[[int], int]) -> None:
        """`rows_before` says how many rows so many steps have."""
        self._rows_before = rows_before

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
        rows = self._rows_before(state.global_step) - self._rows_before(self._first)
        left = duration((state.max_steps - state.global_step) * seconds / max(steps, 1))
        line = f"step {state.global_step}/{state.max_steps}  {what}  {rows / seconds:.1f} rows/s  {left} left"
        live = sys.stderr.isatty() and not keep and state.global_step < state.max_steps
        if sys.stderr.isatty():
            overwrite(line, end="" if live else "\n")
        else:
            print(line, file=sys.stderr, flush=True)
