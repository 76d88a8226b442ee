"""Evaluations that have begun and have no final scores: tables and figures say so, or their gaps would look chosen."""

from collections.abc import Iterable
from pathlib import Path

from leap.evaluation.evaluation_progress import lock_holder
from leap.evaluation.manifest import asked_for, read_manifest
from leap.evaluation.predictions import read_repeats
from leap.evaluation.rescore import OLD_OUTPUT
from leap.evaluation.result_folder import PREDICTIONS, SCORES
from leap.records.files import LOCK
from leap.records.litter import listed
from leap.terminal import first_few
from leap.vlabench.dimensions import DIMENSIONS


def unfinished_results(results: Path, models: Iterable[str] | None = None) -> list[str]:
    """ "MODEL, DIMENSION: how far it is" for each of these models (or all) that was begun and not finished."""
    wanted = None if models is None else set(models)
    return [
        f"{folder.name}, {dimension.name}: {state}"
        for dimension in DIMENSIONS
        for folder in listed(results / dimension.name)
        if (wanted is None or folder.name in wanted) and (state := _state(folder))
    ]


def unfinished_note(results: Path, models: Iterable[str] | None = None) -> str:
    """One line on them; "" where all are finished."""
    found = unfinished_results(results, models)
    return f"not finished (the same command goes on): {first_few(found, 6, '; ')}" if found else ""


def _state(folder: Path) -> str | None:
    """None where the folder's scores are those of all that was asked, or where it is no result at all."""
    scored = (folder / SCORES).is_file()
    manifest = read_manifest(folder)
    if manifest.get("status") == "running":
        found = [one for repeat in read_repeats(folder / PREDICTIONS) for one in repeat.values()]
        answered, asked = sum(one.error is None for one in found), asked_for(manifest)
        state = "running" if lock_holder(folder / LOCK) else "stopped"
        earlier = ", scores are from before" if scored else ""
        return f"{state} at {answered} of {'?' if asked is None else asked}{earlier}"
    if not scored and any((folder / name).is_file() for name in (PREDICTIONS, OLD_OUTPUT)):
        return "answers without scores (scripts/evaluation/score_predictions.py makes them)"
    return None
