"""The files of a blind review: CSV tables with the time of their making in their names."""

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from leap.errors import LeapError
from leap.judge.criteria import CRITERIA, ScoreRow
from leap.records.files import encoded, read_bytes, write_atomic
from leap.records.json_files import first_problem, object_if_there
from leap.records.judging import Output, PairRow, ReviewManifest
from leap.records.table_cells import csv_text, without_marks

Row = TypeVar("Row", bound=BaseModel)
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
_ANALYZE = "analyze_output_results.py"
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
    manifest = read_manifest(manifest_of(scores)) or {}
    return next((scores.with_name(name) for name in manifest.get("tables", []) if name.startswith(PAIRS)), None)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A review's manifest; None where there is none, or, after a warning, where it cannot be read.

    It says what a run took and wrote, and nothing that another one needs: a broken one must not end it.
    """
    try:
        return object_if_there(path, ReviewManifest) or None
    except LeapError as error:
        print(f"warning: {error}; passed over", file=sys.stderr)
        return None


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
        return without_marks(pd.read_csv(BytesIO(read_bytes(path)), dtype=str, keep_default_na=False))
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise LeapError(f"{path}: no CSV table in UTF-8 ({error}); restore the file") from error


def read_outputs(path: Path) -> list[Output]:
    """The rows of a table of outputs. Raises LeapError that names the row for what is none, or stands twice."""
    _, outputs = _read_rows(path, Output, ("model_name", "sample_idx"), "run_vlm_output.py")
    if not outputs:
        raise LeapError(f"{path}: no rows; run scripts/evaluation/run_vlm_output.py again")
    return outputs


def read_scores(path: Path) -> pd.DataFrame:
    """A table of scores: the criteria and final_score as numbers (NaN: unscored), sample_idx and repeat as integers.

    Raises LeapError that names the row for what is none, or stands twice.
    """
    table, rows = _read_rows(path, ScoreRow, ("judge", "model_name", "sample_idx", "repeat"), _ANALYZE, SCORE_COLUMNS)
    for name in (*CRITERIA, "final_score"):
        table[name] = pd.Series([getattr(row, name) for row in rows], dtype="float64")
    for name in ("sample_idx", "repeat"):
        table[name] = pd.Series([getattr(row, name) for row in rows], dtype="int64")
    return table


def read_pairs(path: Path) -> pd.DataFrame:
    """A table of pairs, as text. Raises LeapError that names the row for what is none, or stands twice."""
    return _read_rows(path, PairRow, ("judge", "model_a", "model_b", "sample_idx", "repeat"), _ANALYZE, PAIR_COLUMNS)[0]


def _read_rows(
    path: Path, record: type[Row], key: Sequence[str], script: str, columns: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[Row]]:
    """(the table as text, its rows), of which no two may have one `key`; `columns` must be there."""
    table = read_table(path)
    needed = columns or [name for name, field in record.model_fields.items() if field.is_required()]
    if missing := [name for name in needed if name not in table]:
        raise LeapError(f"{path}: no column {missing[0]}; it should be a table of {script}")
    rows: dict[tuple[Any, ...], Row] = {}
    for number, cells in enumerate(table.to_dict("records"), start=1):
        try:
            row = record.model_validate(cells)
        except ValidationError as error:
            raise LeapError(f"{path}: row {number}: {first_problem(error)}; mend or remove it") from error
        place = tuple(getattr(row, name) for name in key)
        if place in rows:
            duplicate = ", ".join(f"{name} {value}" for name, value in zip(key, place, strict=True))
            raise LeapError(f"{path}: row {number}: a second one of {duplicate}; keep one of them")
        rows[place] = row
    return table, list(rows.values())
