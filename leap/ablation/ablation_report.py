"""An ablation's report: one page to read, tables to compute with, figures. It is made from files alone, at any time."""

import math
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from leap.ablation import ablation_figures
from leap.ablation.ablation_plan import PlannedRun
from leap.ablation.effect_tables import (
    SCORE,
    Findings,
    dimension_table,
    gain_table,
    method_table,
    run_table,
)
from leap.ablation.runs import FULL, label
from leap.progress import rounded
from leap.records.files import write_atomic
from leap.records.table_cells import csv_text, markdown_text
from leap.report.results_summary import METHOD
from leap.report.style import remove, save
from leap.report.tables import markdown_table
from leap.statistics.means import MEAN
from leap.vlabench.dimensions import NAMES
from leap.vlabench.grounding import GROUNDED

PAGE = "report.md"
_P = {"p": "p", "p, Holm": "p_holm"}


def write_report(findings: Findings, planned: list[PlannedRun], folder: Path) -> list[Path]:
    """Write report.md, the tables as CSV and the figures; an older figure for which there is no data now goes."""
    dimensions = dimension_table(findings)
    methods, gains = method_table(findings, dimensions), gain_table(findings)
    drawn: dict[str, Figure | None] = {
        "score_by_cost": ablation_figures.score_by_cost(findings, dimensions),
        "score_by_dimension": ablation_figures.score_by_dimension(findings, dimensions),
        "losses": ablation_figures.losses(findings) if any(one.loss for one in findings.outcomes) else None,
        "full_gain": ablation_figures.full_gain(findings, gains) if len(gains) else None,
    }
    written = [folder / PAGE]
    for name, table in {
        "runs": run_table(findings),
        "methods": methods,
        "dimensions": dimensions,
        "gains": gains,
    }.items():
        write_atomic(folder / f"{name}.csv", csv_text(table))
        written.append(folder / f"{name}.csv")
    for name, figure in drawn.items():
        if figure is None:
            remove(folder / name)
        else:
            written += save(figure, folder / name)
    shown = [name for name, figure in drawn.items() if figure is not None]
    write_atomic(folder / PAGE, _page(findings, planned, readable(methods), dimensions, gains, shown))
    return written


def readable(methods: pd.DataFrame) -> pd.DataFrame:
    """The table of methods for a person: costs, and the mean score with its intervals."""
    rows = methods.set_index("method")
    score = [f"{row['mean']:.1f}" if not math.isnan(row["mean"]) else "missing" for row in rows.to_dict("records")]
    return pd.DataFrame(
        {
            "trainable parameters": [_number(value, ",.0f") for value in rows["weights"]],
            "share": [_number(value, ".2f", " %") for value in rows["share_percent"]],
            "hours": [_number(value, ".2f") for value in rows["hours"]],
            "checkpoint, MB": [_number(value, ",.2f") for value in rows["megabytes"]],
            "last loss": [_number(value, ".3f") for value in rows["last_loss"]],
            "seeds": [
                "-" if pd.isna(of) else f"{done} of {of}"
                for done, of in zip(rows["seeds"], rows["of_seeds"], strict=True)
            ],
            "score": score,
            "over examples": _intervals(rows, "low", "high"),
            "over tasks": _intervals(rows, "task_low", "task_high", "task_mean"),
            "over seeds": _intervals(rows, "seed_low", "seed_high", "seed_mean"),
            "grounded": [_number(value, ".1f") for value in rows[GROUNDED]],
            "grounded, over seeds": _intervals(rows, "grounded_low", "grounded_high"),
        },
        index=rows.index,
    )


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None or pd.isna(value) else f"{value:{form}}{unit}"


def _intervals(rows: pd.DataFrame, low: str, high: str, mean: str | None = None) -> list[str]:
    """Intervals, with the mean that each is of where it is not the score beside it."""
    means = [f"{value:.1f} " for value in rows[mean]] if mean else [""] * len(rows)
    cells = zip(means, rows[low], rows[high], strict=True)
    return ["-" if math.isnan(below) else f"{value}[{below:.1f}, {above:.1f}]" for value, below, above in cells]


def _page(
    findings: Findings,
    planned: list[PlannedRun],
    methods: pd.DataFrame,
    dimensions: pd.DataFrame,
    gains: pd.DataFrame,
    shown: list[str],
) -> str:
    parts = [
        "# Which LoRA is enough?\n",
        _setting(planned),
        _missing(findings),
        markdown_table(methods.rename_axis("method")),
    ]
    parts += [_notes(findings), _image("score_by_cost"), "## By dimension\n"]
    parts += [markdown_table(_by_dimension(dimensions).rename_axis("method")), _image("score_by_dimension")]
    parts += ["## What full fine-tuning gains\n", _gains(findings, gains)]
    parts += [_image(name) for name in ("full_gain", "losses") if name in shown]
    return "\n".join(part for part in parts if part)


def _setting(planned: list[PlannedRun]) -> str:
    run = planned[0].run
    recipe = run.recipe
    rates = {label(one.ablation.method): f"{one.run.recipe.learning_rate:g}" for one in planned}
    listed = ", ".join(f"{method} {rate}" for method, rate in rates.items())
    return (
        f"All runs start from `{recipe.model_name_or_path}` and see the same {len(run.train)} rows of "
        f"`{recipe.train_names}` in the same order for a seed: {run.steps} steps of {recipe.global_batch_size(1)} "
        f"rows. Learning rates: {listed}. All models are evaluated greedily, with one prompt and image size; the "
        f"score is `{SCORE}`, at most 80, much of which is to be had without looking; `{GROUNDED}`, at most 100, is "
        "not (docs/scores.md).\n"
    )


def _missing(findings: Findings) -> str:
    notes = "".join(f"**Careful:** {markdown_text(note)}.\n\n" for note in findings.notes)
    if not findings.missing:
        return notes
    listed = "".join(f"- {markdown_text(one)}\n" for one in findings.missing)
    head = "**Missing or incomplete** (left out, never counted as 0; the same command tries them again):"
    return f"{notes}{head}\n\n{listed}"


def _notes(findings: Findings) -> str:
    several = any(len(findings.scored(method)) > 1 for method in findings.methods)
    devices = sorted({one.device for one in findings.outcomes if one.device})
    notes = [
        f"over examples: {METHOD['interval']}; over tasks: {METHOD['between_tasks']}. Both are of the mean over seeds.",
        "over seeds: Student's t of the runs' means."
        if several
        else "over seeds: none. One seed each says nothing of how far another seed would move a score (`--seeds 3`).",
        f"hours: of training on one device ({', '.join(devices) or 'unknown'}), times the ranks; what was trained "
        "and lost by a kill is not in it. checkpoint: its weight files. last loss: mean of the last tenth of the log.",
    ]
    if len(devices) > 1:
        notes.append("The runs were trained on different devices: do not compare their hours.")
    return "".join(f"- {note}\n" for note in notes)


def _by_dimension(dimensions: pd.DataFrame) -> pd.DataFrame:
    cells = {
        (row["method"], row["dimension"]): "missing" if math.isnan(row["mean"]) else _with_interval(row)
        for row in dimensions.to_dict("records")
    }
    methods = list(dict.fromkeys(dimensions["method"]))
    columns = [*NAMES, MEAN]
    return pd.DataFrame([[cells[method, name] for name in columns] for method in methods], methods, columns)


def _with_interval(row: dict[str, float]) -> str:
    interval = "" if math.isnan(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]"
    return f"{row['mean']:.1f}{interval}"


def _gains(findings: Findings, gains: pd.DataFrame) -> str:
    if not len(gains):
        if label(FULL) not in findings.methods:
            return "Full fine-tuning is not part of this ablation (`--include_full_finetuning`).\n"
        return "There is nothing to compare yet: full fine-tuning or every preset is missing.\n"
    rows = gains[gains["dimension"] == MEAN].set_index("baseline")
    tested = rows["p"].notna()
    columns = {
        "gain, points": [f"{value:+.1f}" for value in rows["difference"]],
        "over examples": _intervals(rows, "low", "high"),
        "over seeds": _intervals(rows, "seed_low", "seed_high"),
    }
    if tested.any():
        columns |= {name: ["-" if math.isnan(p) else rounded(p, 4) for p in rows[key]] for name, key in _P.items()}
    columns |= {"d_z": [_number(value, ".2f") for value in rows["d_z"]], "pairs": [f"{n}" for n in rows["pairs"]]}
    table = pd.DataFrame(columns, index=rows.index)
    notes = ["over examples: of these runs, on other examples of the same tasks; d_z and pairs are of examples too."]
    if tested.any():
        singles = gains[(gains["dimension"] != MEAN) & gains["significant"]]
        found = [f"{row.dimension} over {row.baseline} ({row.difference:+.1f})" for row in singles.itertuples()]
        notes += [
            "over seeds, p: of the methods, Welch's t-test of the runs' means; Holm's correction over the presets. "
            "Below 0.025 it is significant: the means and the dimensions share 5 %.",
            "By dimension, corrected over presets and dimensions together: "
            f"{'; '.join(found) or 'no difference is significant'} (gains.csv).",
        ]
    if not tested.all():
        notes.append("No p for one seed: such a difference can be one of these runs, not of the methods (`--seeds 3`).")
    return f"{markdown_table(table.rename_axis('over'))}\n" + "".join(f"- {note}\n" for note in notes)


def _image(name: str) -> str:
    return f"![{name.replace('_', ' ')}]({name}.png)\n"
