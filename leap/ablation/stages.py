"""The stages of an ablation as jobs: train every run, evaluate what is trained. What is done is not done again."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leap.ablation.ablation_plan import PlannedRun
from leap.cli import Parser, count_or_all
from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.evaluation.manifest import read_manifest
from leap.evaluation.model_names import size_suffix
from leap.evaluation.sweep import evaluation_jobs, named_models
from leap.jobs.job_runner import ray_installed, run_jobs, slots_for
from leap.jobs.process import Job
from leap.jobs.show import print_outcome
from leap.models.checkpoints import MARKER, adapter_base, is_same_model, small_files, weights_hash
from leap.models.image_size import size_flags
from leap.records.paths import find_path
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples, fingerprint

_SAVING = 300.0  # seconds that a run has to save a checkpoint when it is to stop


@dataclass(frozen=True)
class Machine:
    """Where jobs run, and what each is given in its environment."""

    logs: Path
    gpus: Sequence[str] | None
    at_once: int | None
    environment: Mapping[str, str]

    @property
    def slots(self) -> int:
        """Jobs at a time."""
        slots = slots_for(self.gpus, self.at_once)
        return slots if ray_installed() else 1

    def run(self, jobs: Sequence[Job], grace: float) -> bool:
        """Whether all are done; each failed one is reported with the end of its log, and stops no other."""
        if not jobs:
            return True
        given = [replace(job, environment=self.environment) for job in jobs]
        return print_outcome(run_jobs(given, self.logs, self.gpus, self.at_once, grace))


def train(planned: Sequence[PlannedRun], machine: Machine) -> bool:
    """Train what is not trained yet. False where a run failed; its finished checkpoints stay."""
    waiting = [one for one in planned if not one.run.finished]
    print(f"\n== train: {len(planned) - len(waiting)} of {len(planned)} runs are trained already", flush=True)
    # In the workspace, from which a recipe's relative paths start, whatever lies in the user's folder.
    jobs = [Job(f"training_{one.ablation.name}", one.ablation.command, folder=one.run.root) for one in waiting]
    return machine.run(jobs, _SAVING)


@dataclass(frozen=True)
class Places:
    """What results are named after, and where they lie."""

    output: Path
    results: Path
    baseline: Path  # the model whose results are called Baseline
    image_size: ImageSize  # that all models are asked at

    def named(self, folders: Sequence[Path]) -> dict[str, Path]:
        """Model folders by the names of their results."""
        named = named_models(folders, self.baseline, self.output)
        return {f"{name}{size_suffix(name, self.image_size, self.results)}": folder for name, folder in named.items()}


def base_name(planned: Sequence[PlannedRun], places: Places) -> str:
    """What the results of the runs' base model are called."""
    (name,) = places.named([planned[0].run.model])
    return name


def evaluated_models(planned: Sequence[PlannedRun], places: Places) -> dict[str, Path]:
    """The base model and every checkpoint that is to be evaluated and is there, by the names of their results."""
    wanted = [one.checkpoint(step) for one in planned for step in one.steps]
    there = [folder for folder in wanted if (folder / MARKER).is_file()]
    return places.named([planned[0].run.model, *there])


def evaluate(
    planned: Sequence[PlannedRun], places: Places, data: Path, script: Path, options: Sequence[str], machine: Machine
) -> bool:
    """Ask every trained model all six dimensions of `data`, each in the same way. False where an evaluation failed."""
    root, python = planned[0].run.root, [Path(sys.executable).name]
    models = evaluated_models(planned, places)
    asked = [*size_flags(places.image_size), *options]
    jobs = evaluation_jobs(script, models, DIMENSIONS, places.baseline, "models", asked)
    contents = _contents(root, data, options)
    waiting = [
        job
        for job, (name, folder) in zip(jobs, models.items(), strict=True)
        if not is_evaluated(
            places.results, name, identity_of(folder, root), shlex.join([*python, *job.command[1:]]), contents
        )
    ]
    print(f"\n== evaluate: {len(jobs) - len(waiting)} of {len(jobs)} models are evaluated already", flush=True)
    return machine.run(waiting, grace=30)


ModelIdentity = tuple[str, Mapping[str, str]]  # the hash of the weights, and those of the small files by name


def identity_of(folder: Path, root: Path) -> ModelIdentity | None:
    """What tells a model from others, an adapter with its base; None where the evaluation will say what is wrong."""
    try:
        base = adapter_base(folder, root)
        return weights_hash(folder, base), small_files(folder, base)
    except LeapError:
        return None


def _contents(root: Path, data: Path, options: Sequence[str]) -> dict[str, str]:
    """Each dimension's fingerprint as its examples are now, those that an evaluation with these options asks for."""
    parser = Parser(None, add_help=False)
    parser.add_argument("--data_path", default=data)
    for flag in ("--max_tasks", "--num_episodes"):
        parser.add_argument(flag, type=count_or_all)
    asked, _ = parser.parse_known_args(options)
    found = {}
    for dimension in DIMENSIONS:
        with suppress(LeapError):  # the evaluation will say what is wrong
            examples = find_examples(find_path(asked.data_path, root), dimension, asked.max_tasks, asked.num_episodes)
            found[dimension.name] = fingerprint(examples)
    return found


def is_evaluated(
    results: Path, name: str, model: ModelIdentity | None, command: str, contents: Mapping[str, str]
) -> bool:
    """Whether this very command has answered all six dimensions with this model, and of data as they are now.

    `contents` has each dimension's fingerprint. Anything else is left to the evaluation script: it knows what its
    stored answers are worth, and refuses to mix.
    """
    for dimension in DIMENSIONS:
        found = read_manifest(results / dimension.name / name)
        if (found.get("status"), found.get("command")) != ("complete", command) or not is_of(found, model):
            return False
        if found.get("data", {}).get("fingerprint") != contents.get(dimension.name):
            return False
    return True


def is_of(manifest: dict[str, Any], model: ModelIdentity | None) -> bool:
    """Whether results are of this model, and not of another that once had its name."""
    return model is not None and is_same_model(manifest.get("model", {}), *model)
