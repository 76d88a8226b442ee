"""What a blind review shows: means with intervals, comparisons with the baseline, agreement, and what it cannot show.

The unit is the sample: repeats are averaged within it, so that more repeats never make an interval narrower. Judges
are never averaged with each other. What is unscored is left out and counted; it is never a score.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from leap.judge.criteria import CRITERIA, SCALE
from leap.judge.judges import RUBRIC
from leap.statistics.agreement import (
    Estimate,
    Statistic,
    estimate,
    interval_alpha,
    kendall,
    ordinal_alpha,
    spearman,
    weighted_kappa,
)
from leap.statistics.comparison import effect_size, holm, paired_permutation, without_rounding
from leap.statistics.intervals import student_interval
from leap.statistics.sign_test import power_sentence, sign_test

MEASURES = (*CRITERIA, "final_score")
_ITEM = ["model_name", "sample_idx"]
_FOR_KENDALL = 3000  # plans: more pairs of them do not fit in memory


def sample_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a (judge, model, sample): the mean of each of MEASURES over its scored repeats; NaN without any."""
    return scores.groupby(["judge", *_ITEM], sort=False)[list(MEASURES)].mean().reset_index()


def means(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns judge, model_name, measure, mean, low, high (95 %, `student_interval`) and n, the scored samples."""
    samples = sample_scores(scores)
    rows = []
    for (judge, model), part in samples.groupby(["judge", "model_name"], sort=False):
        for measure in MEASURES:
            values = part[measure].dropna().to_numpy()
            row = {"judge": judge, "model_name": model, "measure": measure, "n": len(values)}
            if len(values):
                low, high = student_interval(values, SCALE)
                row |= {"mean": values.mean(), "low": low, "high": high}
            rows.append(row)
    return pd.DataFrame(rows, columns=["judge", "model_name", "measure", "mean", "low", "high", "n"])


def counts(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns judge, model_name, verdicts (asked for), unscored, and unusable (answers that were no verdict)."""
    table = scores.assign(
        unscored=scores["final_score"].isna(), unusable=pd.to_numeric(scores["unusable"]).fillna(0).astype(int)
    )
    grouped = table.groupby(["judge", "model_name"], sort=False)
    return grouped.agg(
        verdicts=("unscored", "size"), unscored=("unscored", "sum"), unusable=("unusable", "sum")
    ).reset_index()


def comparisons(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Every other model's final score against the baseline's on the samples that both have, one row a (judge, model).

    `p` is a paired permutation test of the mean difference, `p_holm` corrects it over a judge's models, `p_sign` is
    the sign test of wins against losses. Empty where a judge has no baseline.
    """
    columns = (
        *("judge", "model_name", "baseline", "pairs", "difference", "low", "high", "p", "p_holm"),
        *("wins", "losses", "ties", "p_sign", "d_z"),
    )
    rows: list[dict[str, Any]] = []
    for judge, part in sample_scores(scores).groupby("judge", sort=False):
        table = part.pivot(index="sample_idx", columns="model_name", values="final_score")
        if baseline not in table:
            continue
        others = [model for model in part["model_name"].unique() if model != baseline]
        found = [_compared(table, model, baseline) for model in others]
        for row, p_holm in zip(found, holm([row["p"] for row in found]), strict=True):
            rows.append({"judge": judge, **row, "p_holm": p_holm})
    return pd.DataFrame(rows, columns=list(columns))


def _compared(table: pd.DataFrame, model: str, baseline: str) -> dict[str, Any]:
    pairs = table[[model, baseline]].dropna()
    differences = (pairs[model] - pairs[baseline]).to_numpy()
    row = {"model_name": model, "baseline": baseline, "pairs": len(pairs), "p": np.nan}
    if not len(pairs):
        return row
    low, high = student_interval(differences, (SCALE[0] - SCALE[1], SCALE[1] - SCALE[0]))
    moved = without_rounding(differences)
    wins, losses = int((moved > 0).sum()), int((moved < 0).sum())
    return row | {
        "difference": differences.mean(),
        "low": low,
        "high": high,
        "p": paired_permutation(pairs[model], pairs[baseline]),
        "wins": wins,
        "losses": losses,
        "ties": len(pairs) - wins - losses,
        "p_sign": sign_test(wins, losses),
        "d_z": effect_size(differences).d_z,
    }


def agreement(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns between, criterion, statistic, value, low, high, n (rated plans).

    Between a judge's repeats and between judges: Krippendorff's alpha, ordinal for whole scores and interval for means.
    Between two judges also weighted kappa, on the verdicts of the same repeat. Between a judge and the rubric: rank
    correlations of the final scores of plans.
    """
    judged = scores[scores["judge"] != RUBRIC]
    names = list(judged["judge"].unique())
    rows = [row for name in names for row in _repeats(judged[judged["judge"] == name], name)]
    if len(names) > 1:
        rows += _judges(judged, names)
    rows += _with_rubric(scores, names)
    return pd.DataFrame(rows, columns=["between", "criterion", "statistic", "value", "low", "high", "n"])


def _repeats(part: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    if part["repeat"].nunique() < 2:
        return []
    return [
        _row(f"repeats of {name}", measure, "Krippendorff's alpha", _alpha(part, "repeat", measure))
        for measure in MEASURES
    ]


def _judges(judged: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    samples = sample_scores(judged)
    rows = [
        _row(" and ".join(names), measure, "Krippendorff's alpha", _alpha(samples, "judge", measure))
        for measure in MEASURES
    ]
    for one, other in combinations(names, 2):
        for criterion in CRITERIA:
            table = judged.pivot(index=[*_ITEM, "repeat"], columns="judge", values=criterion)[[one, other]].dropna()
            found = _estimated(weighted_kappa, table)
            rows.append(_row(f"{one} and {other}", criterion, "weighted kappa (quadratic)", found))
    return rows


def _with_rubric(scores: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    table = sample_scores(scores).pivot(index=_ITEM, columns="judge", values="final_score")
    if RUBRIC not in table:
        return []
    rows = []
    for name in names:
        pairs = table[[name, RUBRIC]].dropna()
        functions = {"Spearman's rho": spearman} | ({"Kendall's tau-b": kendall} if len(pairs) <= _FOR_KENDALL else {})
        for statistic, function in functions.items():
            found = _estimated(function, pairs)
            rows.append(_row(f"{name} and {RUBRIC}", "final_score", statistic, found))
    return rows


def _alpha(part: pd.DataFrame, raters: str, measure: str) -> Estimate:
    """Of whole scores ordinal, of means interval."""
    table = part.pivot(index=_ITEM, columns=raters, values=measure)
    whole = raters == "repeat" and measure != "final_score"
    return _estimated(ordinal_alpha if whole else interval_alpha, table)


def _estimated(statistic: Statistic, table: pd.DataFrame) -> Estimate:
    """Things in rows, raters in columns."""
    if not len(table):
        return Estimate(np.nan, np.nan, np.nan, 0)
    clusters = table.index.get_level_values("sample_idx").to_numpy()
    return estimate(statistic, table.to_numpy(dtype=float).T, clusters)


def _row(between: str, criterion: str, statistic: str, found: Estimate) -> dict[str, Any]:
    return {"between": between, "criterion": criterion, "statistic": statistic, **found._asdict()}


def pair_results(pairs: pd.DataFrame) -> pd.DataFrame:
    """Columns judge, model_a, model_b, pairs, wins (of A), losses, ties, p_sign: one row a pair of models.

    The unit is the sample: who won most of its repeats. A repeat in which the two orders disagree is a tie.
    """
    worth = pairs["outcome"].map({"a": 1, "b": -1, "tie": 0})
    table = pairs.assign(worth=worth).dropna(subset=["worth"])
    rows = []
    for (judge, one, other), part in table.groupby(["judge", "model_a", "model_b"], sort=False):
        total = np.sign(part.groupby("sample_idx")["worth"].sum())
        wins, losses = int((total > 0).sum()), int((total < 0).sum())
        row = {"judge": judge, "model_a": one, "model_b": other, "pairs": len(total), "wins": wins, "losses": losses}
        rows.append({**row, "ties": len(total) - wins - losses, "p_sign": sign_test(wins, losses)})
    columns = ["judge", "model_a", "model_b", "pairs", "wins", "losses", "ties", "p_sign"]
    return pd.DataFrame(rows, columns=columns)


def position_bias(pairs: pd.DataFrame) -> pd.DataFrame:
    """Columns judge, asked (comparisons in both orders), consistent, first, second, tie_once, p.

    `first`: the plan that was shown first won in both orders, which says nothing of the plans; `second` likewise;
    `tie_once`: one order was a tie, the other not. `p` is the sign test of first against second, by the balance of each
    pair's repeats: a judge without bias prefers neither place. Pairs of equal plans were not asked and are left out.
    """
    asked = pairs[(pairs["shown_ab"] != "") & (pairs["shown_ba"] != "") & (pairs["outcome"] != "")]
    rows = []
    for judge, part in asked.groupby("judge", sort=False):
        said = part["shown_ab"] + part["shown_ba"]
        first, second, consistent = said.eq("AA"), said.eq("BB"), said.isin(["AB", "BA", "tietie"])
        balance = (
            (first.astype(int) - second).groupby([part[name] for name in ("model_a", "model_b", "sample_idx")]).sum()
        )
        row = {"judge": judge, "asked": len(part), "consistent": int(consistent.sum()), "first": int(first.sum())}
        row |= {"second": int(second.sum()), "tie_once": int((~(first | second | consistent)).sum())}
        rows.append({**row, "p": sign_test(int((balance > 0).sum()), int((balance < 0).sum()))})
    return pd.DataFrame(rows, columns=["judge", "asked", "consistent", "first", "second", "tie_once", "p"])


def power_note(scores: pd.DataFrame) -> str:
    """What so many samples can show."""
    return power_sentence(int(scores["sample_idx"].nunique()))
