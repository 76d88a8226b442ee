"""The best checkpoint of a run: chosen on one half of the examples, scored on the other."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_script

from leap.errors import LeapError
from leap.evaluation.setting_differences import Difference
from leap.report.results_summary import write_summary
from leap.report.selection import first_half, select_checkpoints, selection_notes
from leap.vlabench.dimensions import NAMES
from leap.vlabench.scoring import LEAP_KEYS, OFFICIAL_KEYS

DRAW = "scripts/evaluation/draw_evaluation_results.py"
TASKS = {"even": 6, "odd": 5, "single": 1}
INDEX = pd.MultiIndex.from_tuples(
    [(name, task, str(number)) for name in sorted(NAMES) for task, size in TASKS.items() for number in range(size)],
    names=["dimension", "task", "example"],
)


def table(columns: Mapping[str, np.ndarray | float]) -> pd.DataFrame:
    """As `read_scores` has it."""
    wide = pd.DataFrame(dict(columns), INDEX, dtype="float64").rename_axis("model", axis="columns")
    return wide.stack().rename("total_score").reset_index()


def test_each_task_gives_half_of_its_examples() -> None:
    halves = [pd.Series(first_half(INDEX, seed), INDEX) for seed in range(20)]
    for half in halves:
        chosen = half.groupby(level=["dimension", "task"]).sum()
        assert (chosen.xs("even", level="task") == 3).all()
        assert chosen.xs("odd", level="task").isin([2, 3]).all()
    assert {half.xs("single", level="task").sum() for half in halves} > {2, 3}  # by chance, not always on one side
    assert halves[0].equals(pd.Series(first_half(INDEX, 0), INDEX))
    assert not halves[0].equals(halves[1])
    part = INDEX[INDEX.get_level_values("dimension") == NAMES[0]]
    assert (first_half(part, 0) == halves[0][part]).all()  # whatever else was run


def test_one_half_chooses_and_the_other_scores() -> None:
    half = first_half(INDEX, 0)
    lucky = np.where(half, 60.0, 10.0)  # only on the half that chooses
    found = select_checkpoints(
        table({"Baseline": 20.0, "checkpoint-1": 30.0, "checkpoint-2": lucky, "checkpoint-3": 40.0}),
        "total_score",
        "Baseline",
    )
    (row,) = found.itertuples()
    assert (row.Index, row.checkpoints, row.best) == ("checkpoint-N", 3, "checkpoint-2")
    assert (row.chosen_on, row.score, row.low, row.high, row.n) == (60, 10, 10, 10, (~half).sum())
    assert (row.difference, row.difference_low, row.difference_high) == (-10, -10, -10)
    assert row.p_holm == pytest.approx(0, abs=1e-3)


def test_the_best_of_equal_checkpoints_is_no_better_on_the_other_half() -> None:
    """Twenty checkpoints of one quality, 50 tables: the score of the choice is too high, that of the rest is not."""
    rng = np.random.default_rng(1)
    chosen, scored, tested = [], [], []
    for seed in range(50):
        scores = {f"checkpoint-{step}": rng.normal(50, 20, len(INDEX)) for step in range(20)}
        found = select_checkpoints(
            table({**scores, "Baseline": rng.normal(50, 20, len(INDEX))}), "total_score", "Baseline", seed=seed
        )
        chosen.append(found["chosen_on"].item())
        scored.append(found["score"].item())
        tested.append(found["p_holm"].item() < 0.05)
    error = 20 / np.sqrt(len(INDEX) / 2) / np.sqrt(len(scored))
    assert np.mean(chosen) > 50 + 4 * error
    assert abs(np.mean(scored) - 50) < 3 * error
    assert np.mean(tested) <= 0.14  # 5 % and three standard errors


def test_p_is_corrected_over_runs_and_refused_where_settings_differ() -> None:
    rng = np.random.default_rng(2)
    columns = {f"{run}-checkpoint-{step}": rng.normal(30 + step, 20, len(INDEX)) for run in "ab" for step in range(4)}
    scores = table({**columns, "Baseline": rng.normal(30, 20, len(INDEX))})
    one = select_checkpoints(scores[~scores["model"].str.startswith("b")], "total_score", "Baseline")
    both = select_checkpoints(scores, "total_score", "Baseline")
    assert list(both.index) == ["a-checkpoint-N", "b-checkpoint-N"]
    assert both["p_holm"].iloc[0] >= one["p_holm"].iloc[0]
    assert both.iloc[0]["score"] == one.iloc[0]["score"]
    unlike = {(one.iloc[0]["best"], "Spatial"): [Difference("prompt", "x", "y", True)]}
    assert select_checkpoints(scores, "total_score", "Baseline", unlike)["p_holm"].isna().tolist() == [True, False]


def test_only_what_every_checkpoint_has_is_used() -> None:
    scores = table({f"checkpoint-{step}": float(step) for step in range(3)} | {"other_swapped": 1.0})
    partly = scores[~((scores["model"] == "checkpoint-2") & (scores["dimension"] != "Spatial"))]
    found = select_checkpoints(partly, "total_score")
    assert found.columns[-1] == "dimensions"  # nothing to compare with
    assert found["dimensions"].item() == 1
    assert found["n"].item() == (~first_half(INDEX[INDEX.get_level_values("dimension") == "Spatial"], 0)).sum()
    few = scores[(scores["dimension"] == "Spatial") & (scores["task"] == "single")]
    with pytest.raises(LeapError, match="checkpoint-N: too few examples"):
        select_checkpoints(few, "total_score")
    with pytest.raises(LeapError, match="no run has three checkpoints"):
        select_checkpoints(scores[scores["model"] != "checkpoint-1"], "total_score")
    controls = scores.assign(model=scores["model"] + "_swapped")
    with pytest.raises(LeapError, match="no run has three checkpoints"):
        select_checkpoints(controls, "total_score")
    assert selection_notes(controls) == []


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for dimension in NAMES:
        for model, total in {"Baseline": 20, "checkpoint-5": 30, "checkpoint-9": 50, "checkpoint-12": 40}.items():
            folder = tmp_path / dimension / model
            folder.mkdir(parents=True)
            other = dict.fromkeys((*OFFICIAL_KEYS, *LEAP_KEYS), 0.0)
            scores = {str(number): {**other, "total_score": total + number, "grounded": total} for number in range(4)}
            (folder / "final_score.json").write_text(json.dumps({"task": scores}))
            (folder / "manifest.json").write_text("{}")
    return tmp_path


@pytest.mark.slow
def test_a_sweep_is_reported_with_a_note_or_with_the_other_half(results: Path) -> None:
    note = "checkpoint-9 is the best of 3 (checkpoint-N, total_score 51.5), chosen on the examples that it is scored on"
    options = f"--results_dir {results} --figure metrics --format png --run_dir {results}".split()
    done = run_script(DRAW, *options)
    assert done.returncode == 0, done.stderr
    assert note in done.stdout
    write_summary(results)
    assert note in (results / "summary.md").read_text().replace("\\", "")
    assert not (results / "figures" / "selection.csv").exists()
    done = run_script(DRAW, *options, "--select_on", "grounded", "--select_seed", "3")
    assert done.returncode == 0, done.stderr
    assert "Chosen by grounded on one half of the examples, scored on the other" in done.stdout
    assert note not in done.stdout
    row = pd.read_csv(results / "figures" / "selection.csv").iloc[0]
    assert (row["run"], row["best"], row["score"], row["difference"]) == ("checkpoint-N", "checkpoint-9", 50, 30)
    done = run_script(DRAW, *options, "--select_on", "luck")
    assert done.returncode == 1
    assert "there is no score 'luck'" in done.stderr
