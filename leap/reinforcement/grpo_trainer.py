"""TRL's GRPOTrainer with LEAP's promises: checkpoints whole or not at all, in LEAP's form, and a run that goes on from
one as if it had never stopped; nothing that is no number is saved; progress lines, report, benchmark.

TRL samples, scores and computes the loss. What is overridden here is where the library saves, loads and evaluates.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PrinterCallback, Trainer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer as trl_trainer

from leap.errors import LeapError
from leap.models.checkpoints import read_marker
from leap.reinforcement.own_reward import OwnReward
from leap.reinforcement.policy_recipe import PolicyRecipe
from leap.reinforcement.shared_prompts import share_prompts, share_sampling
from leap.reinforcement.shared_work import (
    neighbours_together,
    process_images_once,
    rows_of,
    see_images_once,
    that_teach,
)
from leap.training.callbacks import ProgressLines
from leap.training.checkpoint_writer import CheckpointWriter
from leap.training.checkpointing import LossSum, Training, load, load_weights
from leap.training.finite import StepLosses, nothing_saved
from leap.training.loop import Benchmark, kept_random_numbers
from leap.training.ranks import Ranks
from leap.training.signals import Signals
from leap.training.stopping import own_log
from leap.training.wall_time import SESSIONS, WallTime
from leap.vlabench.rewards import reward_terms

Reward = Callable[..., list[float | None]]


def reward_functions(weights: Mapping[str, float], own: OwnReward | None) -> list[Reward]:
    """One of TRL's reward functions for each term, in the order of the weights, so that TRL logs each by its name."""
    return [_own(own) if name == "own" and own else _term(name) for name in weights]


def _term(name: str) -> Reward:
    def reward(completions: Sequence[Any], reference: Sequence[str], shown: Sequence[Any], **_: Any) -> Any:
        said = zip(completions, reference, shown, strict=True)
        return [reward_terms(one[0]["content"], json.loads(plan), which)[name] for one, plan, which in said]  # type: ignore[index]

    reward.__name__ = name
    return reward


def _own(own: OwnReward) -> Reward:
    def reward(completions: Sequence[Any], reference: Sequence[str], **_: Any) -> list[float | None]:
        return [own(one[0]["content"], json.loads(plan)) for one, plan in zip(completions, reference, strict=True)]

    reward.__name__ = "own"
    return reward


@dataclass
class PolicyJob:
    """What the benchmark is asked with while a policy trains (`leap.training.loop.InTraining`), and what checkpoints
    need beside the trainer's state."""

    recipe: PolicyRecipe
    accelerator: Accelerator
    model: Any
    processor: Any  # as it is saved: TRL's own pads on the left
    output: Path
    identity: dict[str, Any]
    base_name: str
    benchmark: Benchmark | None
    eval_steps: int | None
    resume: Path | None
    state: Any = None
    ranks: Ranks = field(default_factory=Ranks)
    wall: WallTime = field(default_factory=WallTime)


class PolicyTrainer(GRPOTrainer):
    """See the module. `signals` have been listened to since before it was made."""

    def __init__(self, job: PolicyJob, signals: Signals, **options: Any) -> None:
        self._job, self._signals = job, signals
        self._earlier: list[dict[str, Any]] = []
        self._first_step = 0
        see_images_once(job.model)
        # Another family's positions are its own, and other attentions than sdpa take no mask of this kind.
        config = job.model.config
        self._shares = config.model_type == "qwen3_vl" and config._attn_implementation == "sdpa"
        if self._shares:
            share_sampling(job.model)
            process_images_once(options["processing_class"].image_processor)
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Moments(self))
        job.accelerator = self.accelerator
        self._writer: CheckpointWriter | None = None

    # --- going on

    def _init_training_state(self, *arguments: Any, **options: Any) -> tuple[int, int]:
        found: tuple[int, int] = super()._init_training_state(*arguments, **options)
        if self._job.resume:
            self.state.log_history = own_log(self.state.log_history, read_marker(self._job.resume), self._job.identity)
        self._earlier = self.state.stateful_callbacks.get(SESSIONS, [])
        self._first_step = self.state.global_step
        return found

    def _load_callback_state(self) -> None:
        """LEAP's checkpoints hold none."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load(self._training(), Path(checkpoint))

    # --- saving

    def _training(self) -> Training:
        job = self._job
        return Training(
            self.model, self.model_wrapped, self.optimizer, self.lr_scheduler, self.accelerator, job.processor,
            job.base_name,
        )  # fmt: skip

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        job = self._job
        StepLosses().refuse_non_finite(
            job.ranks, job.output, str, self.model.parameters(), self.state.global_step, lambda: None
        )
        self.count_time()
        if self._writer is None:
            recipe = job.recipe
            self._writer = CheckpointWriter(
                self._training(), job.output, job.identity, recipe.save_total_limit, job.ranks,
                recipe.metric_for_best_model,
            )  # fmt: skip
        with job.wall.spent("saving"):
            nothing = torch.zeros((), device=self.accelerator.device)
            self._writer.save(self.state, LossSum(nothing, self.state.global_step))
            self._writer.finish()

    def count_time(self) -> None:
        """This start's seconds and responses, for the report."""
        steps = self.state.global_step - self._first_step
        session = self._job.wall.session(self._first_step, steps, steps * self.responses_of_a_step)
        self.state.stateful_callbacks = {**self.state.stateful_callbacks, SESSIONS: [*self._earlier, session]}

    @property
    def responses_of_a_step(self) -> int:
        return self._job.recipe.global_batch_size(self.args.world_size)

    # --- what is computed once

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's, which deals the responses of all groups out to micro-batches at random: each would have nearly as many
        prompts as responses. The mean over micro-batches of bnpo depends on what each holds."""
        recipe = self._job.recipe
        if recipe.loss_type == "bnpo":
            return super()._prepare_inputs(generation_batch)
        steps = max(1, recipe.micro_batches_sampled // recipe.gradient_accumulation_steps)
        shuffle = trl_trainer.shuffle_sequence_dict
        trl_trainer.shuffle_sequence_dict = partial(neighbours_together, steps=steps)
        try:
            return super()._prepare_inputs(generation_batch)
        finally:
            trl_trainer.shuffle_sequence_dict = shuffle

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        recipe = self._job.recipe
        alone = recipe.beta == 0 and recipe.loss_type == "dapo"  # which divides by the tokens of all responses
        return super()._compute_loss(model, that_teach(inputs, self._largest) if alone else inputs)

    def _largest(self, number: int) -> int:
        """Of all ranks'."""
        return int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **inputs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """What TRL computes, with each prompt once: see `shared_prompts`."""
        if self._shares and batch_size and len(input_ids) > batch_size:
            parts = [
                self._get_per_token_logps_and_entropies(
                    model, input_ids[rows], attention_mask[rows], logits_to_keep, batch_size, compute_entropy,
                    compute_aux_loss, **rows_of(rows, inputs),
                )
                for rows in torch.arange(len(input_ids)).split(batch_size)
            ]  # fmt: skip
            log_probs, entropies, losses = zip(*parts, strict=True)
            return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, losses[-1]
        shared = None
        if self._shares and not compute_aux_loss:
            pad = self.processing_class.tokenizer.pad_token_id
            shared = share_prompts(self.model, input_ids, attention_mask, logits_to_keep, inputs, pad)
        if shared is None:
            options = {"batch_size": batch_size, "compute_entropy": compute_entropy}
            found: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
            found = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep,
                compute_aux_loss=compute_aux_loss, **options, **inputs,
            )  # fmt: skip
            return found
        with self.accelerator.autocast():
            outputs = model(**shared.inputs, fused_lm_head=True)
        entropy = shared.of_responses(outputs.entropy) if compute_entropy else None
        return shared.of_responses(outputs.log_probs), entropy, None

    # --- what is no number

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not math.isfinite(loss):
            self.refuse(f"the loss is {float(loss)}")
        return loss

    def refuse(self, what: str) -> None:
        """End a run in whose step something is no number."""
        step = self.state.global_step + 1
        raise LeapError(f"step {step}: {what}. {nothing_saved(self._job.output)}: use a lower learning rate")

    # --- the benchmark

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The benchmark's subset, answered greedily. What is learned is the same with and without it."""
        job = self._job
        assert job.benchmark
        job.state = self.state
        training = self.model.training
        with job.wall.spent("validation"), kept_random_numbers():
            scores = job.benchmark.scores(job)
        self.model.train(training)
        # TRL's own would add, and forget, what it has gathered of training steps since it last logged.
        Trainer.log(self, dict(scores))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, scores)
        return scores


class _Moments(TrainerCallback):
    """When is evaluated and saved, and when a signal ends the run: where responses are sampled anew."""

    def __init__(self, trainer: PolicyTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer._job.wall.begin(torch.cuda.is_available())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = [weight.grad for weight in self._trainer.model.parameters() if weight.grad is not None]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self._trainer.refuse("a gradient is not finite")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        job, step = self._trainer._job, state.global_step
        received = job.ranks.largest(self._trainer._signals.received)
        if received and step % job.recipe.steps_of_a_sampling == 0:
            control.should_save = control.should_training_stop = True
        last = step >= state.max_steps
        control.should_evaluate = bool(job.eval_steps) and (last or step % (job.eval_steps or 1) == 0)
        # What TRL gathers until it logs is in no checkpoint: so nothing is gathered where a run may go on.
        control.should_log |= control.should_save or control.should_evaluate


class PolicyProgress(ProgressLines):
    """Reward, grounded and length of the responses, and the validation scores, in the lines of any training."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "reward" not in logs:
            super().on_log(args, state, control, logs, **kwargs)
            return
        known = {name: value for name, value in logs.items() if value is not None}
        said = [f"reward {known.get('reward', math.nan):.3f}"]
        with suppress(KeyError):
            said.append(f"grounded {100 * known['rewards/grounded/mean']:.1f}")
        said.append(f"length {known['completions/mean_length']:.0f}")
        if cut := known["completions/clipped_ratio"]:
            said.append(f"cut {cut:.0%}")
        self._log(args, state, "  ".join(said))


def grpo_config(recipe: PolicyRecipe, output: Path, evaluates: bool, trackers: Sequence[str]) -> GRPOConfig:
    """The recipe in TRL's words. Raises LeapError where TRL refuses it."""
    same = ("num_generations", "max_completion_length", "temperature", "top_p", "num_iterations", "beta", "epsilon",
            "epsilon_high", "loss_type", "scale_rewards", "mask_truncated_completions", "max_steps",
            "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "max_grad_norm",
            "logging_steps", "save_steps", "seed", "bf16", "use_vllm", "vllm_gpu_memory_utilization",
            "vllm_enable_sleep_mode")  # fmt: skip
    try:
        return GRPOConfig(
            output_dir=str(output),
            **{name: getattr(recipe, name) for name in same},
            dataloader_num_workers=recipe.dataloader_num_workers or 0,
            steps_per_generation=recipe.micro_batches_sampled,
            vllm_max_model_length=recipe.model_max_length + recipe.max_completion_length,
            reward_weights=list(recipe.weights.values()),
            shuffle_dataset=False,  # the rows stand in the order of the run
            gradient_checkpointing=bool(recipe.gradient_checkpointing),
            use_cpu=not torch.cuda.is_available(),
            eval_on_start=evaluates,
            logging_nan_inf_filter=False,
            report_to=list(trackers) or "none",
            disable_tqdm=True,
            log_level="error",
        )
    except ValueError as error:
        raise LeapError(f"TRL refuses this recipe: {error}") from error
