"""What a training script does with its recipe: check everything, tell the plan, train what is left to train."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leap.progress import is_main_process
from leap.training.plan import describe
from leap.training.recipe import Recipe
from leap.training.run import check_run, train


def plan_and_train(
    recipe: Recipe, root: Path, cache: Path, repository: Path, logs: Path, callbacks: Sequence[Any], dry_run: bool
) -> None:
    """With `dry_run`, or where the run is finished, only the plan. For the rest see `check_run` and `train`."""
    checked = check_run(recipe, root, cache)
    tell = print if is_main_process() else (lambda *_: None)
    tell(describe(checked))
    if dry_run:
        return
    if checked.finished:
        tell(f"this run is finished: {checked.resume}")
        return
    tell(f"done: {train(checked, repository, logs, callbacks)}")
