"""Two models example by example: where one is right and the other is not, and which kind became which."""

from pathlib import Path

import pandas as pd

from leap.evaluation.diagnoses import read_diagnoses
from leap.report.results import result_folders
from leap.vlabench.diagnosis import FLAGS, KINDS, Diagnosis

COLUMNS = ("dimension", "task", "example", "model", "baseline", "model_flags", "baseline_flags")


def read_changes(results: Path, model: str, baseline: str) -> pd.DataFrame:
    """A row for each example that both models' results have a diagnosis of: `COLUMNS`, the kinds under "model" and
    "baseline". Empty where one of them is older than the diagnosis."""
    found = {
        (name, dimension): read_diagnoses(folder)
        for dimension, name, folder in result_folders(results, [model, baseline])
    }
    rows = [
        (dimension, task, example, mine.kind, other.kind, _flags(mine), _flags(other))
        for (name, dimension), diagnoses in found.items()
        if name == model
        for (task, example), mine in diagnoses.items()
        if (other := found.get((baseline, dimension), {}).get((task, example))) is not None
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def right_only(changes: pd.DataFrame, right: str = "model", wrong: str = "baseline") -> pd.DataFrame:
    """The examples that one is right on and the other is not."""
    return changes[(changes[right] == "correct") & (changes[wrong] != "correct")]


def kind_changes(changes: pd.DataFrame) -> pd.DataFrame:
    """How many examples of the baseline's kind (rows) are of which kind with the model (columns); kinds that neither
    has are left out."""
    table = pd.crosstab(changes["baseline"], changes["model"])
    table = table.reindex(
        index=[kind for kind in KINDS if kind in table.index], columns=[kind for kind in KINDS if kind in table.columns]
    )
    table.columns.name = None
    return table


def _flags(diagnosis: Diagnosis) -> str:
    return ", ".join(flag.replace("_", " ") for flag in FLAGS if getattr(diagnosis, flag))
