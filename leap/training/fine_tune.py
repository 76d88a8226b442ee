"""One training run: check everything, resume what can be resumed, train, leave checkpoints that load anywhere."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leap import provenance
from leap.data.chat_encoding import ChatFormat
from leap.data.formats.sample_format import FormatName
from leap.data.image import ImageEncoder, ImageSize
from leap.data.sample_datasets import find_samples
from leap.environment import local_world_size, world_size
from leap.errors import LeapError
from leap.hub.hub_models import cached_model, hub_origin, local_folder
from leap.models.checkpoints import (
    MARKER,
    checkpoint_step,
    find_checkpoints,
    read_config,
    read_log,
    read_marker,
    small_files,
    weights_hash,
)
from leap.models.image_size import record_size
from leap.models.loading import load_processor
from leap.models.lora import load_adapters
from leap.preparation.check.checked_dataset import CheckedFile, check_training_file
from leap.preparation.check.mixture import CheckedSamples, Mixture
from leap.preparation.check.overlap import count_shared
from leap.progress import is_main_process
from leap.records.files import cache_in_use
from leap.records.json_files import write_json
from leap.records.locks import wait_until_free
from leap.records.remote import NotFetched, as_path
from leap.records.upload import Upload
from leap.training.batches import check_packing, make_batches
from leap.training.checkpoint_folder import (
    BEING_SENT,
    remove_newer,
    resume_point,
    step_of,
    training_in,
    whole_checkpoints,
)
from leap.training.dry_run import describe
from leap.training.optimizer_choice import choose_optimizer
from leap.training.places import check_places
from leap.training.ranks import Ranks, join, naming_lost_ranks
from leap.training.recipe import Recipe
from leap.training.resume import (
    adapter_to_start,
    agree_on_resume,
    find_resume,
    model_to_train,
    note_unknown_files,
    ranks_of_step,
    refuse_another_run,
    resolve_start,
)
from leap.training.schedule import check_reports, check_schedule, check_stopping
from leap.training.sharding import check_sharding
from leap.training.stopping import BEST, Metric, best_step, evaluations, has_stopped, own_log
from leap.training.trainable_model import Trainable, check_dtype, load_trainable, plan_training
from leap.workers import clear_worker_errors

if TYPE_CHECKING:
    from leap.training.loop import Benchmark


@dataclass(frozen=True)
class Run:
    """A run that has been checked: its paths, its samples, what it continues."""

    recipe: Recipe
    root: Path  # of the workspace
    model: Path
    output: Path
    processor: Any
    chat: ChatFormat
    encoder: ImageEncoder
    train: CheckedSamples
    validation: CheckedFile | None
    identity: dict[str, Any]
    newest: Path | None  # the newest complete checkpoint that this rank has
    resume: Path | None  # that all ranks have
    trainable: Trainable
    shared: int = 0  # validation samples that are training samples too
    benchmark: "Benchmark | None" = None

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, as the Trainer counts them."""
        return self.recipe.max_steps or math.ceil(self.steps_per_epoch * self.recipe.num_train_epochs)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.global_batch_size)

    @property
    def global_batch_size(self) -> int:
        """Samples of an optimiser step: of a run that goes on, as many as it began with, on however many ranks."""
        return self.recipe.global_batch_size(self.identity["recipe"]["processes"])

    @property
    def eval_steps(self) -> int | None:
        """Steps between evaluations; None for no evaluation."""
        recipe = self.recipe
        strategy = recipe.eval_strategy or ("steps" if recipe.val_file or recipe.eval_benchmark else "no")
        if strategy == "no":
            return None
        if strategy == "epoch":
            return self.steps_per_epoch
        often_enough = max(5, (recipe.early_stopping_patience or 0) + 2)  # for early stopping to come to anything
        return recipe.eval_steps or (max(1, self.steps // often_enough) if recipe.eval_benchmark else 50)

    @property
    def evaluated_on(self) -> dict[str, str]:
        """The samples and examples of its evaluations, as its checkpoints name them."""
        found = {}
        if self.validation:
            found["held_out"] = f"{self.validation.fingerprint}, {len(self.validation)} rows"
        if self.benchmark:
            found["benchmark"] = self.benchmark.fingerprint
        return found

    @property
    def finished(self) -> bool:
        """Whether the newest checkpoint is the last step's, or that of an early stop."""
        if self.resume is None:
            return False
        patience, metric = self.recipe.early_stopping_patience, self.recipe.metric_for_best_model
        log = own_log(read_log(self.resume), read_marker(self.resume), self.evaluated_on)
        stopped = bool(patience) and has_stopped(log, patience, metric)
        return stopped or (checkpoint_step(self.resume) or 0) >= self.steps


def plan_and_train(
    recipe: Recipe,
    root: Path,
    cache: Path,
    repository: Path,
    logs: Path,
    callbacks: Sequence[Any],
    dry_run: bool,
    benchmark: "Callable[[Recipe], Benchmark] | None" = None,
) -> None:
    """With `dry_run`, or where the run is finished, only the plan. For the rest see `check_run` and `train`."""
    log = print if is_main_process() else (lambda *_: None)
    if not dry_run:
        wait_until_free(root / recipe.output_dir)
    upload = None
    if recipe.upload and is_main_process() and not dry_run:
        upload = Upload(as_path(recipe.upload, root), (root / recipe.output_dir).parent, MARKER)
    with naming_lost_ranks(recipe.ddp_timeout):
        with cache_in_use(cache, keep=not dry_run) as place:
            try:
                checked = check_run(recipe, root, place, report=not dry_run, benchmark=benchmark)
            except NotFetched as note:
                log(f"images      {note}")
                return
        log(describe(checked))
        if dry_run:
            return
        if upload:
            refuse_another_upload(upload, checked)
        if checked.finished:
            assert checked.resume
            log(f"this run is finished: {checked.resume}")
            if upload:
                from leap.training.checkpointing import prune_checkpoints

                for folder in whole_checkpoints(checked.output):
                    upload.send(folder)
                upload.refuse_failed()
                BEING_SENT.clear()
                with training_in(checked.output):
                    log_history, limit = read_log(checked.resume), recipe.save_total_limit
                    prune_checkpoints(checked.output, log_history, limit, recipe.metric_for_best_model)
            return
        from leap.training.callbacks import UploadCheckpoints

        sending = [UploadCheckpoints(upload)] if upload else []
        log(f"done: {train(checked, repository, logs, [*sending, *callbacks])}")


def refuse_another_upload(upload: Upload, run: Run) -> None:
    """Raises LeapError where another run's checkpoints lie where this one's go, now or when one is to be sent."""
    place = f"{upload.address}/{run.output.name}"

    def same(there: Any, here: Any) -> bool:
        refuse_another_run(place, there, run.identity)
        of_stripping = ("resumable", "weights")  # it may have been stripped here since
        known = (there.keys() | here.keys()) - {*of_stripping}
        if different := sorted(name for name in known if there.get(name) != here.get(name)):
            raise LeapError(
                f"{place}: step {there.get('step')} of an earlier start lies there, which differs in "
                f"{', '.join(different)}; remove or move it there, or send this run elsewhere"
            )
        return True

    upload.same = same
    if first := upload.stored(run.output / f"checkpoint-{min(run.recipe.save_steps, run.steps)}"):
        refuse_another_run(place, first, run.identity)


def check_run(
    recipe: Recipe,
    root: Path,
    cache: Path,
    report: bool = True,
    benchmark: "Callable[[Recipe], Benchmark] | None" = None,
) -> Run:
    """Check model, data and output folder before any work. Relative paths start at `root`. Raises LeapError.

    What the check of the data finds is kept in the folder `cache`, so that the next start need not look again, with a
    `report` for people. `benchmark` makes what `eval_benchmark` asks for.
    """
    output = root / recipe.output_dir
    check_places(recipe, root)
    model = local_folder(model_to_train(recipe, root), root)
    recipe = resolve_start(recipe, root)
    check_dtype(recipe)
    join(recipe.ddp_timeout)
    ranks = Ranks(recipe.ddp_timeout)
    agree(recipe, ranks)
    recipe = recipe.model_copy(update={"optim": choose_optimizer(recipe, model, output, ranks)})
    check_reports(recipe.report_to)
    processor = load_processor(model)
    family = read_config(model).get("model_type") or "unknown"
    check_sharding(recipe, family)
    check_packing(recipe, family)
    if not ImageEncoder.encodes(processor):
        raise LeapError(f"{model}: training is for models that read images as Qwen's do, not for {family}")
    chat = ChatFormat(processor)
    size = ImageSize(recipe.image_tokens_min, recipe.image_tokens_max)
    encoder = ImageEncoder(processor, size)
    record_size(processor, size)  # every checkpoint holds the processor
    start = adapter_to_start(recipe, root) if recipe.resume_from_lora and resume_point(output) is None else None
    trainable = plan_training(recipe, model, start)

    def check(file: str, data_format: FormatName | None, max_samples: int | None, name: str) -> CheckedFile:
        source = find_samples(file, root, cache)
        assert source is not None, "check_places has found it"
        usual = [root, root / "data", *([source.folder] if source.folder else [])]
        roots = [as_path(recipe.image_root, root)] if recipe.image_root else list(dict.fromkeys(usual))
        return check_training_file(
            source,
            roots,
            chat,
            encoder,
            recipe.model_max_length,
            cache,
            max_samples,
            name,
            report,
            data_format or recipe.data_format,
            recipe.train_on,
        )

    files = [
        check(one.file, one.data_format, recipe.max_train_samples, "training samples") for one in recipe.train_files
    ]
    mixed = not isinstance(recipe.train_file, str)
    train = Mixture(files, [one.weight for one in recipe.train_files], recipe.seed) if mixed else files[0]
    validation = None
    if recipe.val_file:
        validation = check(recipe.val_file, None, recipe.max_eval_samples, "validation samples")
    if "llm" not in recipe.trained and not train.images.any():
        raise LeapError(f"{train.path}: no sample has an image, so that nothing would learn while the LLM is frozen")
    asked = benchmark(recipe) if recipe.eval_benchmark and benchmark else None
    ranks.wait()
    identity = {
        "recipe": {**recipe.identity(), "processes": ranks_of_step(recipe, output, ranks)},
        "base_model": weights_hash(model),
        "base_files": small_files(model),
        "data": train.fingerprint,
    }
    newest = find_resume(output, identity)
    ranks.same("this run", identity)
    ranks.same("validation samples", validation.fingerprint if validation else None)
    ranks.same("examples of the benchmark", asked.fingerprint if asked else None)
    ranks.same(
        "samples that are used",
        [(len(samples), int(samples.tokens.sum())) for samples in (train, validation) if samples],
    )
    resume = agree_on_resume(output, newest, ranks)
    note_unknown_files(resume)
    shared = count_shared(train, validation) if validation else 0
    run = Run(
        recipe,
        root,
        model,
        output,
        processor,
        chat,
        encoder,
        train,
        validation,
        identity,
        newest,
        resume,
        trainable,
        shared,
        asked,
    )
    if resume is None:  # a run goes on as it began
        check_schedule(recipe, run.steps)
    if not run.finished:
        check_stopping(recipe.early_stopping_patience, run.eval_steps, run.steps)
    return run


def agree(recipe: Recipe, ranks: Ranks) -> None:
    """Raises LeapError in all ranks where one has another recipe, LEAP or library, by which they would drift apart."""
    own_places = {"output_dir", "image_root", "dataloader_num_workers"}  # these may be each node's own
    code = provenance.git_state(Path(__file__).resolve().parents[2]) if world_size() > 1 else None
    ranks.same("recipe", recipe.model_dump(exclude=own_places))
    if recipe.hybrid_shard:
        ranks.same("ranks of a node (LOCAL_WORLD_SIZE)", local_world_size())
    ranks.same("versions", {**provenance.versions(), "LEAP's code": code})


@contextmanager
def writing_alone(run: Run, ranks: Ranks) -> Iterator[None]:
    """This rank's part in keeping other processes out of the run's folder: that of the ranks which write there."""
    writers = ranks.share(run.output)
    if writers > 1 and run.recipe.deepspeed:
        raise LeapError(f"{run.output}: DeepSpeed's checkpoints are of all ranks: let all nodes share the folder")
    with training_in(run.output) if ranks.writes else nullcontext():
        if ranks.writes and find_resume(run.output, run.identity) != run.newest:
            raise LeapError(f"{run.output}: another process trained here meanwhile; run the same command again")
        if ranks.writes and run.resume:
            remove_newer(run.output, step_of(run.resume))
        yield


def train(run: Run, repository: Path, logs: Path, callbacks: Sequence[Any] = ()) -> Path:
    """Train to the last step and return the last checkpoint's folder. Losses go to TensorBoard files under `logs`.

    `callbacks` are transformers' TrainerCallbacks, called after LEAP's own. Raises Stopped where a signal ended it,
    with a checkpoint saved.
    """
    ranks = Ranks(run.recipe.ddp_timeout)
    with writing_alone(run, ranks):
        return _train(run, ranks, repository, logs / "tensorboard", callbacks)


def _train(run: Run, ranks: Ranks, repository: Path, scalars: Path, callbacks: Sequence[Any]) -> Path:
    import torch

    from leap.training.accelerator import make_accelerator
    from leap.training.callbacks import EarlyStopping, ProgressLines
    from leap.training.checkpointing import load_state
    from leap.training.loop import TrainingJob, train_loop
    from leap.training.memory_plan import keeps_gradients, optimizer_bytes
    from leap.training.out_of_memory import recall, remember
    from leap.training.sharding import shard, shards
    from leap.training.training_report import TrainingReport, about
    from leap.training.wall_time import WallTime

    recipe, wall = run.recipe, WallTime()
    every_rank_uses_all = bool(run.train.images.any())  # each batch uses the vision tower, or none does
    accelerator = make_accelerator(recipe, run.root, scalars, find_unused=not every_rank_uses_all)
    model = load_start(run)
    divided = recipe.fsdp and accelerator.num_processes > 1
    if divided:
        nodes = accelerator.num_processes // shards(recipe)
        model = shard(model, accelerator.device, getattr(torch, recipe.dtype), nodes)
    elif not recipe.quantization:
        model = model.to(accelerator.device)
    known = [plan for plan in ranks.gather(recall(run.output)) if plan]
    earlier = max(known, key=lambda plan: plan.micro_batches, default=None)
    batches = make_batches(run, model, accelerator, optimizer_bytes(model, recipe.optim), earlier)
    ranks.same("division of a step", batches.memory_plan)
    if is_main_process():
        print(f"batches     {batches.summary}", file=sys.stderr, flush=True)
    identity = full_identity(run, repository)
    if ranks.writes:
        write_json(run.output / MARKER, identity)
    own = [
        TrainingReport(about(run, identity, batches.summary)),
        ProgressLines(batches.train.plan.samples_before),
    ]
    if recipe.early_stopping_patience:
        own.append(EarlyStopping(recipe.early_stopping_patience, recipe.metric_for_best_model))
    job = TrainingJob(
        recipe=recipe,
        accelerator=accelerator,
        model=model,
        processor=run.processor,
        train=batches.train,
        validation=batches.validation,
        output=run.output,
        resume=run.resume,
        state=load_state(run.resume, run.steps, identity),
        identity=identity,
        eval_steps=run.eval_steps,
        benchmark=run.benchmark,
        base_name=base_name(run.model, run.root),
        callbacks=[*own, *callbacks],
        keeps_gradients=divided and keeps_gradients(model, accelerator.device),
        ranks=ranks,
        wall=wall,
    )
    try:
        with clear_worker_errors("--dataloader_num_workers"):
            state = train_loop(job)
    except torch.OutOfMemoryError as error:  # one that smaller batches could not mend within the step
        raise remember(run.output, job.state.global_step + 1, batches.memory_plan) from error
    print_best(state.log_history, run.output, recipe.metric_for_best_model)
    return run.output / f"checkpoint-{state.global_step}"


def load_start(run: Run) -> Any:
    """The model that a run starts from, on the CPU; a checkpoint to go on from is loaded over it."""
    model = load_trainable(run.recipe, run.model)
    if run.recipe.resume_from_lora and not run.resume:
        load_adapters(model, adapter_to_start(run.recipe, run.root))
    return model


def full_identity(run: Run, repository: Path) -> dict[str, Any]:
    """What checkpoints say of their run: what decides what is learned, and by which code, with which libraries."""
    identity = {**run.identity, **provenance.git_state(repository), "versions": provenance.versions()}
    identity |= {"held_out": None, **run.evaluated_on}
    if origin := hub_origin(run.model):
        identity["base_hub"] = origin
    return identity


def base_name(model: Path, root: Path) -> str:
    """What others load the base by: its name on the hub, its path from the workspace root, or its whole path."""
    if cached := cached_model(model):
        return str(replace(cached, revision=None))
    model, root = Path(os.path.abspath(model)), Path(os.path.abspath(root))  # a link stays a link
    return str(model.relative_to(root) if model.is_relative_to(root) else model)


def print_best(log: list[dict[str, Any]], output: Path, metric: Metric) -> None:
    best = best_step(log, [checkpoint_step(folder) or 0 for folder in find_checkpoints(output)], metric)
    if best is not None and is_main_process():
        value = evaluations(log, metric)[best]
        print(f"{BEST[metric]}: {value:.4f} in {output}/checkpoint-{best}", file=sys.stderr)
