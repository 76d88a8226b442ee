"""The stages of an ablation as jobs: train every run, evaluate what is trained. What is done is not done again."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leap.ablation.plan import PlannedRun
from leap.evaluation.models import BASELINE
from leap.evaluation.result_folder import MANIFEST
from leap.evaluation.sweep import evaluation_jobs
from leap.jobs.process import Job
from leap.jobs.run import ray_installed, run_jobs, slots_for
from leap.jobs.show import print_outcome
from leap.models.checkpoints import MARKER, adapter_base, result_name, weights_hash
from leap.records.files import read_object
from leap.vlabench.dimensions import DIMENSIONS

_SAVING = 300.0  # seconds that a run has to save a checkpoint when it is told to stop


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
        """Whether all are done; each failed one is told with the end of its log, and stops no other."""
        if not jobs:
            return True
        given = [replace(job, environment=self.environment) for job in jobs]
        return print_outcome(run_jobs(given, self.logs, self.gpus, self.at_once, grace))


def train(planned: Sequence[PlannedRun], machine: Machine) -> bool:
    """Train what is not trained yet. False where a run failed; its finished checkpoints stay."""
    waiting = [one for one in planned if not one.run.finished]
    print(f"\n== train: {len(planned) - len(waiting)} of {len(planned)} runs are trained already", flush=True)
    return machine.run([Job(f"training_{one.ablation.name}", one.ablation.command) for one in waiting], _SAVING)


def evaluated_models(planned: Sequence[PlannedRun], output: Path) -> dict[str, Path]:
    """The base model and every checkpoint that is to be evaluated and is there, by the names of their results."""
    wanted = [one.checkpoint(step) for one in planned for step in one.steps]
    there = {result_name(folder, output): folder for folder in wanted if (folder / MARKER).is_file()}
    return {BASELINE: planned[0].run.model, **there}


def evaluate(
    planned: Sequence[PlannedRun],
    output: Path,
    results: Path,
    script: Path,
    options: Sequence[str],
    machine: Machine,
) -> bool:
    """Ask every trained model all six dimensions, each in the same way. False where an evaluation failed."""
    base, root = planned[0].run.model, planned[0].run.root
    models = evaluated_models(planned, output)
    jobs = evaluation_jobs(script, models, DIMENSIONS, base, "models", options)
    waiting = [
        job
        for job, (name, folder) in zip(jobs, models.items(), strict=True)
        if not is_evaluated(results, name, weights_hash(folder, adapter_base(folder, root)), job.command)
    ]
    print(f"\n== evaluate: {len(jobs) - len(waiting)} of {len(jobs)} models are evaluated already", flush=True)
    return machine.run(waiting, grace=30)


def is_evaluated(results: Path, name: str, weights: str, command: Sequence[str]) -> bool:
    """Whether this very command has answered all six dimensions with these weights.

    Any other command is left to the evaluation script: it knows what its stored answers are worth.
    """
    told = shlex.join([Path(sys.executable).name, *command[1:]])
    for dimension in DIMENSIONS:
        path = results / dimension.name / name / MANIFEST
        found = read_object(path) if path.is_file() else {}
        asked = found.get("status"), found.get("command"), found.get("model", {}).get("weights")
        if asked != ("complete", told, weights):
            return False
    return True
