"""A paired comparison of two models, to read and to keep."""

from pathlib import Path

import pandas as pd

from leap.records.json_files import write_json
from leap.report.changed_examples import kind_changes, right_only
from leap.report.results_summary import METHOD, REPEATS, records
from leap.report.tables import REPEATS_TITLE, print_table, write_tables

_NONE = pd.DataFrame()


def print_comparison(table: pd.DataFrame, score: str, note: str = "", repeated: pd.DataFrame = _NONE) -> None:
    """The table of `leap.statistics.comparison.compare`, a sentence on what it shows, the note, and `repeat_table`."""
    model, baseline = table.iloc[0][["model", "baseline"]]
    print_table(readable(table), f"{model} against {baseline}: {score}")
    significant = table["significant"].astype("boolean")
    named = table[significant.fillna(False)]["dimension"]
    verdict = f"differs significantly in: {', '.join(named)}" if len(named) else "no difference is significant"
    if significant[table["p"].notna()].isna().all():
        verdict = "no difference is called significant: they were asked or scored in other ways"
    print(f"{verdict} (p_holm below 0.025: dimensions and means share 5 %)")
    if table["unpaired"].sum():
        print(f"{int(table['unpaired'].sum())} results of one model have no partner in the other and are left out")
    if note:
        print(note)
    if len(repeated):
        print_table(repeated, REPEATS_TITLE)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Dimensions in rows, short column names."""
    kept = table.drop(columns=["model", "baseline"]).set_index("dimension")
    return kept.rename(columns={"mean_model": "model", "mean_baseline": "baseline"})


def print_changes(changes: pd.DataFrame, listed: int = 10) -> None:
    """Which kinds of diagnosis became which, and the first examples that one model is right on and the other is not."""
    if changes.empty:
        print("no diagnoses of both to compare (scripts/evaluation/score_predictions.py makes them)")
        return
    print_table(kind_changes(changes).rename_axis("baseline \\ model"), "Diagnoses: from the baseline's to the model's")
    gained, lost = right_only(changes), right_only(changes, "baseline", "model")
    print(f"{len(gained)} examples are right only with the model, {len(lost)} only with the baseline")
    for row in gained.head(listed).itertuples():
        flags = [f" ({flags})" if flags else "" for flags in (row.model_flags, row.baseline_flags)]
        print(f"  {row.dimension}/{row.task}/{row.example}: {row.model}{flags[0]}, was {row.baseline}{flags[1]}")
    if len(gained) > listed:
        print(f"  and {len(gained) - listed} more, in the .json")


def write_comparison(
    table: pd.DataFrame,
    changes: pd.DataFrame,
    folder: Path,
    score: str,
    note: str = "",
    repeated: pd.DataFrame = _NONE,
) -> list[Path]:
    """<A>_vs_<B>.json with the method, the note and every changed example, .csv and .md; <A>_vs_<B>_kinds.csv and .md:
    how many examples of which kind became which."""
    name = f"{table.iloc[0]['model']}_vs_{table.iloc[0]['baseline']}"
    path = folder / f"{name}.json"
    content = {"score": score, "method": METHOD, "note": note or None, "rows": records(table)}
    content["right_only_model"] = records(right_only(changes))
    content["right_only_baseline"] = records(right_only(changes, "baseline", "model"))
    if len(repeated):
        content |= {"method": METHOD | {"repeats": REPEATS}, "repeats": records(repeated.reset_index())}
    write_json(path, content)
    tables = {name: readable(table)}
    if len(changes):
        tables[f"{name}_kinds"] = kind_changes(changes)
    return [path, *write_tables(tables, folder, note)]
