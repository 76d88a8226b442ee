"""A blind review to read and to keep: blind10_summary_<time>.md and .json beside the table of scores."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from leap.judge import review_summary
from leap.judge.criteria import FORMULA
from leap.judge.judges import RUBRIC
from leap.judge.review_files import SCORES, read_pairs, read_scores
from leap.progress import rounded
from leap.records.files import write_atomic
from leap.records.json_files import write_json
from leap.records.table_cells import markdown_text
from leap.report.results import chosen_baseline
from leap.report.tables import markdown_table, print_table
from leap.statistics.comparison import ALPHA

METHOD = {
    "scores": f"1 to 5, higher is better; {FORMULA}",
    "interval": "95 % by Student's t over samples (of averaged repeats), within the scale; none where all are alike",
    "p": "two-sided paired permutation test on the samples that both models have",
    "p_holm": "p with Holm's correction over a judge's models",
    "p_sign": "two-sided exact sign test of wins against losses, samples without a difference left out",
    "agreement": "95 % bootstrap, whole samples resampled 1,000 times; empty where all scores are alike",
    "unscored": "verdicts that never came or could not be used: left out and counted, never a score",
    "rubric": f"{RUBRIC}: word overlap with the reference's steps; no judge's opinion, and blind to the image",
}


def review_tables(scores: pd.DataFrame, pairs: pd.DataFrame | None, baseline: str | None) -> dict[str, pd.DataFrame]:
    """All tables of a review by name; without a baseline the comparisons are empty."""
    paired = pairs is not None and len(pairs) > 0
    return {
        "means": review_summary.means(scores),
        "counts": review_summary.counts(scores),
        "comparisons": review_summary.comparisons(scores, baseline) if baseline else pd.DataFrame(),
        "agreement": review_summary.agreement(scores),
        "pairs": review_summary.pair_results(pairs) if paired else pd.DataFrame(),
        "position_bias": review_summary.position_bias(pairs) if paired else pd.DataFrame(),
    }


def write_review(scores_path: Path, pairs_path: Path | None, wanted: str | None = None) -> list[Path]:
    """Print the tables of a review, and write them beside its scores; `wanted` is the baseline's name."""
    scores = read_scores(scores_path)
    baseline = chosen_baseline(wanted, list(scores["model_name"].unique()))
    tables = review_tables(scores, read_pairs(pairs_path) if pairs_path else None, baseline)
    note = review_summary.power_note(scores)
    texts = {"Blind review": ""}
    for judge in scores["judge"].unique():
        title = f"Blind review by {judge}: mean of 1 to 5 [95 % interval]"
        shown = readable(tables, judge)
        print_table(shown, title)
        texts[markdown_text(title)] = markdown_table(shown)
    for name, title in (("agreement", "Agreement"), ("pairs", "Pairs"), ("position_bias", "Position bias")):
        if len(tables[name]):
            shown = tables[name].set_index(tables[name].columns[0])
            for column in shown.columns.intersection(["p", "p_sign"]):
                shown[column] = shown[column].map(_p)
            texts[title] = markdown_table(shown)
            print_table(shown, title)
    print(note)
    stem = scores_path.name.replace(SCORES, "blind10_summary", 1).removesuffix(".csv")
    written = [scores_path.with_name(f"{stem}.md"), scores_path.with_name(f"{stem}.json")]
    write_atomic(written[0], _markdown(texts, note))
    write_json(written[1], _content(scores_path, baseline, note, tables))
    return written


def readable(tables: dict[str, pd.DataFrame], judge: str) -> pd.DataFrame:
    """One judge's table: models in rows, means with intervals, then the comparison with the baseline and the counts."""
    part = tables["means"][tables["means"]["judge"] == judge]
    cells = {(row["model_name"], row["measure"]): _cell(row) for row in part.to_dict("records")}
    models = list(part["model_name"].unique())
    table = pd.DataFrame({m: [cells[model, m] for model in models] for m in review_summary.MEASURES}, index=models)
    if len(tables["comparisons"]):
        own = tables["comparisons"][tables["comparisons"]["judge"] == judge].set_index("model_name").reindex(models)
        against = own["baseline"].dropna().unique()
        if len(against):
            rows = own.to_dict("records")
            table[f"against {against[0]}"] = [_difference(row) for row in rows]
            table["won, lost, even"] = [_outcomes(row) for row in rows]
            table["p_holm"], table["p_sign"] = ([_p(row[name]) for row in rows] for name in ("p_holm", "p_sign"))
    own = tables["counts"][tables["counts"]["judge"] == judge].set_index("model_name").reindex(models)
    return table.join(own[["verdicts", "unscored"]])


def _cell(row: dict[str, Any]) -> str:
    if pd.isna(row["mean"]):
        return "-"
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['mean']:.2f}{interval}"


def _difference(row: dict[str, Any]) -> str:
    if pd.isna(row["difference"]):
        return "-"
    return f"{row['difference']:+.2f}{' †' if row['p_holm'] < ALPHA else ''}"


def _outcomes(row: dict[str, Any]) -> str:
    return "-" if pd.isna(row["wins"]) else f"{row['wins']:.0f}, {row['losses']:.0f}, {row['ties']:.0f}"


def _p(value: float) -> str:
    return "-" if pd.isna(value) else rounded(value, 3)


def _markdown(texts: dict[str, str], note: str) -> str:
    notes = [note, *(f"{name}: {text}." for name, text in METHOD.items()), f"† p_holm below {ALPHA:g}."]
    parts = [f"# {title}\n" if not text else f"## {title}\n\n{text}" for title, text in texts.items()]
    return "\n".join([*parts, *(f"- {line}" for line in notes)]) + "\n"


def _content(scores_path: Path, baseline: str | None, note: str, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    rows = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    return {"scores": scores_path.name, "baseline": baseline, "method": METHOD, "power": note, **rows}
