"""Many models on many dimensions as jobs: one call of the evaluation script each, no two on the same result folder."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from leap.cli import with_underscores
from leap.errors import UsageError
from leap.evaluation.model_names import BASELINE
from leap.jobs.process import Job
from leap.models.checkpoints import result_name
from leap.vlabench.dimensions import Dimension

Split = Literal["models", "dimensions"]

# What a job is given by the sweep itself: set again behind "--", two jobs would do the same or share a folder.
_OWN = ("--checkpoint", "--model_path", "--dimension", "--batch_mode", "--baseline_model", "--checkpoints_dir")
_OWN_OF_BATCH = ("--max_checkpoints", "--skip_baseline")


def evaluation_jobs(
    script: Path,
    models: dict[str, Path],
    dimensions: Sequence[Dimension],
    baseline: Path,
    split: Split,
    options: Sequence[str] = (),
) -> list[Job]:
    """A job a model: its weights are loaded, and its server is started, once. Or a job a model and dimension.

    `models` are folders by their result names; `options` go to each call of the script. Raises UsageError for options
    that are not one job's to set.
    """
    _refuse_own(options, len(models))
    python = [sys.executable, str(script), *options, "--baseline_model", str(baseline)]
    parts = [[dimension] for dimension in dimensions] if split == "dimensions" else [list(dimensions)]
    return [
        Job(
            "_".join(["evaluation", name, *_file_names(part if split == "dimensions" else [])]),
            [*python, "--checkpoint", str(folder), "--dimension", *(dimension.name for dimension in part)],
        )
        for name, folder in models.items()
        for part in parts
    ]


def named_models(folders: Sequence[Path], baseline: Path, output: Path) -> dict[str, Path]:
    """The folders by the names of their results. Raises UsageError where two would share a result folder."""
    named: dict[str, Path] = {}
    for folder in folders:
        name = BASELINE if folder.resolve() == baseline.resolve() else result_name(folder, output)
        if name in named:
            raise UsageError(f"{folder} and {named[name]} would both be {name} in the results; evaluate one at a time")
        named[name] = folder
    return named


def _file_names(dimensions: Sequence[Dimension]) -> list[str]:
    """Dimensions as the names of logs: without the & that a shell would take for itself."""
    return [dimension.name.replace("&", "") for dimension in dimensions]


def _refuse_own(options: Sequence[str], models: int) -> None:
    given = {with_underscores(option).partition("=")[0] for option in options}
    for option in (*_OWN, *_OWN_OF_BATCH):
        if option in given:
            raise UsageError(f"{option} behind --: put it before the --, where it decides which jobs there are")
    if "--model_name" in given and models > 1:
        raise UsageError(f"--model_name behind --: {models} models cannot share one name, they would share a folder")
