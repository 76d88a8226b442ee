"""The stages of an ablation as jobs: train every run, evaluate what is trained. What is done is not done again."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leap.ablation.ablation_plan import PlannedRun
from leap.data.image import ImageSize
from leap.evaluation.model_names import named_models, size_suffix
from leap.jobs.job_runner import ray_flags, run_jobs, slots_for
from leap.jobs.process import Job
from leap.jobs.show import print_outcome
from leap.models.checkpoints import MARKER
from leap.models.image_size import size_flags

_SAVING = 300.0  # seconds that a run has to save a checkpoint when it is to stop


@dataclass(frozen=True)
class Machine:
    """Where jobs run, and what each is given in its environment; with a Ray cluster's address, all over it."""

    logs: Path
    gpus: Sequence[str] | None
    at_once: int | None
    environment: Mapping[str, str]
    ray_address: str | None = None

    @property
    def slots(self) -> int:
        """Jobs at a time."""
        return slots_for(self.gpus, self.at_once)

    @property
    def workers(self) -> int | None:
        """Models asked at a time, each on a GPU of its own."""
        return min(self.at_once, len(self.gpus)) if self.at_once and self.gpus else self.at_once

    @property
    def all_gpus(self) -> dict[str, str]:
        """The environment in which a job sees every GPU."""
        return {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}

    def run(self, jobs: Sequence[Job], grace: float, ray_address: str | None = None) -> bool:
        """Whether all are done; each failed one is reported with the end of its log, and stops no other."""
        if not jobs:
            return True
        given = [replace(job, environment={**self.environment, **job.environment}) for job in jobs]
        return print_outcome(run_jobs(given, self.logs, self.gpus, self.at_once, grace, ray_address))


def train(planned: Sequence[PlannedRun], machine: Machine) -> bool:
    """Train what is not trained yet. False where a run failed; its finished checkpoints stay."""
    waiting = [one for one in planned if not one.run.finished]
    print(f"\n== train: {len(planned) - len(waiting)} of {len(planned)} runs are trained already", flush=True)
    # In the workspace, from which a recipe's relative paths start, whatever lies in the user's folder.
    jobs = [Job(f"training_{one.ablation.name}", one.ablation.command, folder=one.run.root) for one in waiting]
    return machine.run(jobs, _SAVING, machine.ray_address)


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


def evaluated_models(planned: Sequence[PlannedRun], places: Places) -> dict[str, Path]:
    """The base model and every checkpoint that is to be evaluated and is there, by the names of their results."""
    wanted = [one.checkpoint(step) for one in planned for step in one.steps]
    there = [folder for folder in wanted if (folder / MARKER).is_file()]
    return places.named([planned[0].run.model, *there])


def evaluate(
    planned: Sequence[PlannedRun], places: Places, script: Path, options: Sequence[str], machine: Machine
) -> bool:
    """Ask every trained model all six dimensions, each in the same way. False where an evaluation failed.

    The script asks no model what is answered already, and loads none then.
    """
    models = evaluated_models(planned, places)
    print(f"\n== evaluate: {len(models)} models", flush=True)
    command = [sys.executable, str(script), "--baseline_model", str(places.baseline), *size_flags(places.image_size)]
    command += [
        *options,
        *ray_flags(machine.ray_address, machine.gpus or [], machine.workers),
        "--checkpoint",
        *map(str, models.values()),
    ]
    # Here, with all GPUs: its own workers go over them, or over the cluster.
    return machine.run([Job("evaluation", command, machine.all_gpus)], grace=30)
