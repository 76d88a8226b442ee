"""One run of GRPO: checked as any training run is, then TRL's trainer, and checkpoints as any run's."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leap.data.image import ImageSize
from leap.environment import world_size
from leap.errors import LeapError, Stopped
from leap.models.checkpoints import MARKER
from leap.models.image_size import record_size
from leap.models.loading import load_processor
from leap.preparation.check.checked_dataset import CheckedFile
from leap.progress import is_main_process, quiet_libraries
from leap.records.json_files import write_json
from leap.reinforcement.own_reward import OwnReward
from leap.reinforcement.policy_prompts import Conversations, Places, Prompt, order_of, read_prompts
from leap.reinforcement.policy_recipe import PolicyRecipe
from leap.training.dry_run import costs
from leap.training.fine_tune import Run, base_name, check_run, full_identity, load_start, print_best, writing_alone
from leap.training.memory import gigabytes
from leap.training.ranks import Ranks
from leap.training.recipe import Recipe
from leap.training.schedule import check_reports, warmup_steps

if TYPE_CHECKING:
    from leap.training.loop import Benchmark
    from leap.training.signals import Signals


def check_trl(use_vllm: bool = False) -> None:
    """Raises LeapError where the optional extra is not installed."""
    if use_vllm and find_spec("vllm") is None:
        raise LeapError("use_vllm: vLLM is not installed in this environment, whose process would run it")
    if find_spec("trl") is None:
        raise LeapError('GRPO needs TRL: pip install -c constraints.txt -e ".[rl]" (--method rft needs nothing more)')


def learn_grpo(
    recipe: PolicyRecipe,
    own: OwnReward | None,
    places: Places,
    cache: Path,
    dry_run: bool,
    callbacks: Sequence[Any] = (),
    benchmark: "Callable[[Recipe], Benchmark] | None" = None,
) -> None:
    """With `dry_run`, or where the run is finished, only the plan. What is checked: see `check_run`.

    Raises Stopped where a signal ended it, with a checkpoint saved; LeapError for what is wrong.
    """
    check_trl(recipe.use_vllm)
    run = check_run(recipe, places.root, cache, report=not dry_run, benchmark=benchmark)
    assert isinstance(run.train, CheckedFile), "a PolicyRecipe names one file"
    prompts = read_prompts(run.train)
    log = print if is_main_process() else (lambda *_: None)
    log(_describe(run, recipe, prompts))
    if dry_run:
        return
    if run.finished:
        log(f"this run is finished: {run.resume}")
        return
    ranks = Ranks(recipe.ddp_timeout)
    with writing_alone(run, ranks):
        log(f"done: {_learn(run, ranks, recipe, own, prompts, places, callbacks)}")


def _describe(run: Run, recipe: PolicyRecipe, prompts: Sequence[Prompt]) -> str:
    """The plan of a run, for `--dry_run` and for the start of a real one."""
    asked = recipe.prompts_needed(world_size())
    rewards = ", ".join(f"{weight:g} x {name}" for name, weight in recipe.weights.items())
    twins = f"; {recipe.image_share:.0%} of them with another scene's images too" if recipe.image_share else ""
    sampler = f", {recipe.vllm_gpu_memory_utilization:.0%} of the GPU's for vLLM" if recipe.use_vllm else ""
    lines = [
        f"model       {run.model}",
        f"prompts     {len(prompts)} of {run.train.path} ({len(run.train) - len(prompts)} samples have no plan); "
        f"{asked} are asked{twins}",
        f"rewards     {rewards}",
        f"steps       {recipe.max_steps} of {recipe.global_batch_size(world_size())} responses, "
        f"{recipe.num_generations} to a prompt, learning rate {recipe.learning_rate}",
        *(f"trainable   {line}" for line in run.trainable.lines),
        f"memory      {gigabytes(costs(run).held)} a GPU for weights, gradients and {run.recipe.optim}{sampler}; "
        "activations come on top",
        f"checkpoints {run.output}/checkpoint-N every {recipe.save_steps} steps",
        f"start       {'continues ' + str(run.resume) if run.resume else 'from the model'}",
    ]
    return "\n".join(lines)


def _learn(
    run: Run,
    ranks: Ranks,
    recipe: PolicyRecipe,
    own: OwnReward | None,
    prompts: Sequence[Prompt],
    places: Places,
    callbacks: Sequence[Any],
) -> Path:
    import torch

    from leap.training.accelerator import refuse_several_gpus
    from leap.training.signals import Signals, stop_message

    quiet_libraries()
    refuse_several_gpus(
        f"torchrun --standalone --nproc_per_node {torch.cuda.device_count()} scripts/training/run-grpo.py …"
    )
    with Signals(is_main_process()) as signals, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that TRL uses names which transformers is about to change
        trainer = _make_trainer(run, ranks, recipe, own, prompts, places, callbacks, signals)
        try:
            trainer.train(resume_from_checkpoint=str(run.resume) if run.resume else None)
        except torch.OutOfMemoryError as error:
            fewer = "lower --per_device_train_batch_size, or take --gradient_checkpointing"
            raise LeapError(f"out of memory: {fewer}") from error
        except RuntimeError as error:
            if "probability tensor" in str(error):  # torch's words for a model whose logits are no numbers
                trainer.refuse("the model's probabilities are no numbers")
            raise
    state = trainer.state
    if signals.received and state.global_step < run.steps:
        raise Stopped(stop_message(signals.received, state.global_step), signals.received)
    print_best(state.log_history, run.output, recipe.metric_for_best_model)
    return run.output / f"checkpoint-{state.global_step}"


def _make_trainer(
    run: Run,
    ranks: Ranks,
    recipe: PolicyRecipe,  # as `run.recipe`, whose optimiser is no longer "auto"
    own: OwnReward | None,
    prompts: Sequence[Prompt],
    places: Places,
    callbacks: Sequence[Any],
    signals: "Signals",
) -> Any:
    from datasets import Dataset
    from transformers import get_scheduler

    from leap.reinforcement.grpo_trainer import (
        PolicyJob,
        PolicyProgress,
        PolicyTrainer,
        grpo_config,
        reward_functions,
    )
    from leap.reinforcement.vllm_sampling import shown_images_once
    from leap.training.optimizers import make_optimizer
    from leap.training.training_report import TrainingReport, about

    identity = full_identity(run, places.repository)
    if ranks.writes:
        write_json(run.output / MARKER, identity)
    model, steps, size = load_start(run), run.steps, recipe.global_batch_size(world_size())
    optimizer = make_optimizer(run.recipe, model)
    kwargs = dict(recipe.lr_scheduler_kwargs or {})
    schedule = get_scheduler(recipe.lr_scheduler_type, optimizer, warmup_steps(recipe, steps), steps, kwargs)
    needed, together = recipe.prompts_needed(world_size()), recipe.prompts_sampled(world_size())
    asked = order_of(prompts, needed, recipe.image_share, recipe.seed, together)
    rows = Dataset.from_dict({"number": list(range(len(asked)))}).with_transform(Conversations(prompts, asked))
    reader = load_processor(run.model)
    image_size = ImageSize(recipe.image_tokens_min, recipe.image_tokens_max)
    record_size(reader, image_size)
    reader.tokenizer.padding_side = "left"
    job = PolicyJob(
        recipe=recipe,
        accelerator=None,  # the trainer makes it
        model=model,
        processor=run.processor,
        output=run.output,
        identity=identity,
        base_name=base_name(run.model, run.root),
        benchmark=run.benchmark,
        eval_steps=run.eval_steps,
        resume=run.resume,
        ranks=ranks,
    )
    ours: list[Any] = [TrainingReport(about(run, identity, f"{size} responses a step"))]
    ours.append(PolicyProgress(lambda done: done * size))
    trackers = check_reports(recipe.report_to)
    if "tensorboard" in trackers:
        ours.append(_tensorboard(places.logs / "tensorboard" / run.output.name, run.resume))
    others = [tracker for tracker in trackers if tracker != "tensorboard"]
    with shown_images_once(reader, image_size) if recipe.use_vllm else nullcontext():
        return PolicyTrainer(
            job,
            signals,
            model=model,
            reward_funcs=reward_functions(recipe.weights, own),
            args=grpo_config(recipe, run.output, bool(run.benchmark) and run.resume is None, others),
            train_dataset=rows,
            processing_class=reader,
            callbacks=[*ours, *callbacks],
            optimizers=(optimizer, schedule),
        )


def _tensorboard(folder: Path, resume: Path | None) -> Any:
    """What a killed run logged after its last checkpoint is logged anew."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    from leap.training.checkpoint_folder import step_of

    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=step_of(resume) + 1))
