"""A paired comparison of two models, to read and to keep."""

import json
from pathlib import Path

import pandas as pd

from leap.records.json_files import write_json
from leap.report.results_summary import METHOD
from leap.report.tables import print_table, write_tables


def print_comparison(table: pd.DataFrame, score: str, note: str = "") -> None:
    """The table of `leap.statistics.comparison.compare`, one sentence on what it shows, and the note."""
    model, baseline = table.iloc[0][["model", "baseline"]]
    print_table(readable(table), f"{model} against {baseline}: {score}")
    significant = table["significant"].astype("boolean")
    named = table[significant.fillna(False)]["dimension"]
    verdict = f"differs significantly in: {', '.join(named)}" if len(named) else "no difference is significant"
    if significant[table["p"].notna()].isna().all():
        verdict = "no difference is called significant: they were asked or scored in other ways"
    print(f"{verdict} (p_holm, of the mean p, below 0.05)")
    if table["unpaired"].sum():
        print(f"{int(table['unpaired'].sum())} results of one model have no partner in the other and are left out")
    if note:
        print(note)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Dimensions in rows, short column names."""
    kept = table.drop(columns=["model", "baseline"]).set_index("dimension")
    return kept.rename(columns={"mean_model": "model", "mean_baseline": "baseline"})


def write_comparison(table: pd.DataFrame, folder: Path, score: str, note: str = "") -> list[Path]:
    """<A>_vs_<B>.json with the method and the note, .csv and .md."""
    name = f"{table.iloc[0]['model']}_vs_{table.iloc[0]['baseline']}"
    path = folder / f"{name}.json"
    rows = json.loads(table.to_json(orient="records"))
    write_json(path, {"score": score, "method": METHOD, "note": note or None, "rows": rows})
    return [path, *write_tables({name: readable(table)}, folder, note)]
