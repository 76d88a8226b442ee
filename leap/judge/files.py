"""The files of a blind review: CSV tables with the time of their making in their names."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from leap.errors import LeapError
from leap.records.files import encoded, first_problem, read_object, write_atomic
from leap.records.review import CRITERIA, Output
from leap.records.tables import csv_text, without_marks

OUTPUTS, SCORES, PAIRS, MANIFEST = "blind10_outputs", "blind10_score", "blind10_pairs", "blind10_manifest"
OUTPUT_COLUMNS = tuple(Output.model_fields)
SCORE_COLUMNS = (
    *("model_name", "sample_idx", "judge_raw", *CRITERIA, "final_score"),
    *("judge", "repeat", "error", "rationale", "pictures", "tries", "unusable", "prompt_tokens", "new_tokens"),
)
PAIR_COLUMNS = (
    *("model_a", "model_b", "sample_idx", "judge", "repeat", "outcome", "shown_ab", "shown_ba", "error"),
    *("rationale_ab", "rationale_ba", "prompt_tokens", "new_tokens"),
)
_TIME = re.compile(r"_(\d{8}_\d{6}(?:_\d+)?)\.csv")


def write_table(
    folder: Path, stem: str, rows: Iterable[dict[str, Any]], columns: Sequence[str], anew: bool = False
) -> Path:
    """<stem>_<time>.csv in UTC; the newest one where it holds just this already, unless it is wanted `anew`."""
    content = encoded(csv_text(pd.DataFrame(rows, columns=list(columns))))
    newest = find_newest(folder, stem)
    if not anew and newest and newest.read_bytes() == content:
        return newest
    time, number = datetime.now(UTC).strftime("%Y%m%d_%H%M%S"), 1
    path = folder / f"{stem}_{time}.csv"
    while path.exists():  # two within a second
        number += 1
        path = folder / f"{stem}_{time}_{number}.csv"
    write_atomic(path, content)
    return path


def find_newest(folder: Path, stem: str) -> Path | None:
    """The newest <stem>_<time>.csv by its name, None where there is none."""
    found = [path for path in folder.glob(f"{stem}_*.csv") if _TIME.fullmatch(path.name.removeprefix(stem))]
    return max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", time_of(path))], default=None)


def find_pairs(scores: Path) -> Path | None:
    """The table of pairs that belongs to a table of scores, as its manifest says; None where there is none."""
    manifest = manifest_of(scores)
    tables = read_object(manifest).get("tables", []) if manifest.is_file() else []
    return next((scores.with_name(name) for name in tables if name.startswith(PAIRS)), None)


def manifest_of(scores: Path) -> Path:
    """Where the manifest of a table of scores lies."""
    return scores.with_name(scores.name.replace(SCORES, MANIFEST, 1)).with_suffix(".json")


def time_of(path: Path) -> str:
    """The time in a table's name, or its stem where there is none."""
    match = _TIME.search(path.name)
    return match[1] if match else path.stem


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file's cells as text, "" where empty. Raises LeapError where it is none."""
    try:
        return without_marks(pd.read_csv(path, dtype=str, keep_default_na=False))
    except OSError as error:
        raise LeapError(f"{path}: cannot be read ({error.strerror or error}); give the right file") from error
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise LeapError(f"{path}: no CSV table in UTF-8 ({error}); restore the file") from error


def read_outputs(path: Path) -> list[Output]:
    """The rows of a table of outputs. Raises LeapError that names the row for what is none, or stands twice."""
    table = read_table(path)
    missing = [name for name, field in Output.model_fields.items() if field.is_required() and name not in table]
    if missing:
        raise LeapError(f"{path}: no column {missing[0]}; it should be a table of run_vlm_output.py")
    outputs: list[Output] = []
    seen: set[tuple[str, int]] = set()
    for number, row in enumerate(table.to_dict("records"), start=1):
        try:
            output = Output.model_validate(row)
        except ValidationError as error:
            raise LeapError(f"{path}: row {number}: {first_problem(error)}; mend or remove it") from error
        key = output.model_name, output.sample_idx
        if key in seen:
            raise LeapError(f"{path}: row {number}: a second answer of {key[0]} to sample {key[1]}; keep one of them")
        seen.add(key)
        outputs.append(output)
    if not outputs:
        raise LeapError(f"{path}: no rows; run scripts/evaluation/run_vlm_output.py again")
    return outputs


def read_scores(path: Path) -> pd.DataFrame:
    """A table of scores: the criteria and final_score as numbers (NaN: unscored), sample_idx and repeat as integers."""
    table = read_table(path)
    if missing := [name for name in SCORE_COLUMNS if name not in table]:
        raise LeapError(f"{path}: no column {missing[0]}; it should be a table of analyze_output_results.py")
    numbers = [*CRITERIA, "final_score"]
    try:
        table[numbers] = table[numbers].replace("", "nan").astype("float64")
        table[["sample_idx", "repeat"]] = table[["sample_idx", "repeat"]].astype("int64")
    except ValueError as error:
        raise LeapError(f"{path}: a score, sample or repeat that is no number ({error}); restore the file") from error
    return table
