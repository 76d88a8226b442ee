"""summary.json, .csv and .md of a results folder, and the comparison of two models, from real result files."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import run_script

from leap.report.results_summary import INCOMPLETE, SIGNIFICANT, write_summary
from leap.vlabench.dimensions import NAMES
from leap.vlabench.grounding import SCORE_KEYS


def write_results(
    results: Path, model: str, totals: list[float], unscored: int = 0, names: tuple[str, ...] = NAMES
) -> None:
    """Two tasks a dimension, each with these totals; other scores are equal to them."""
    for name in names:
        folder = results / name / model
        folder.mkdir(parents=True)
        examples = {str(n): dict.fromkeys(SCORE_KEYS, total) for n, total in enumerate(totals)}
        (folder / "final_score.json").write_text(json.dumps({"task_a": examples, "task_b": examples} if totals else {}))
        scored = 2 * len(totals)
        counts = {"examples": scored + unscored, "scored": scored, "format_error": 0, "truncated": 0}
        counts |= {"inference_error": unscored, "missing": 0}
        (folder / "manifest.json").write_text(json.dumps({"counts": counts}))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_results(tmp_path, "Baseline", [0, 20, 40, 0, 20, 40, 20, 0])
    write_results(tmp_path, "checkpoint-5", [60, 80, 60, 80, 60, 40, 80, 60])
    write_results(tmp_path, "checkpoint-9", [20, 20, 40, 0, 20, 40, 20, 0], unscored=1, names=("Spatial",))
    write_results(tmp_path, "failed", [], unscored=4)
    return tmp_path


def test_the_summary_says_what_is_sure_and_what_is_missing(results: Path) -> None:
    table = write_summary(results)["total_score"]
    assert list(table.index) == ["Baseline", "checkpoint-5", "checkpoint-9", "failed", "floor", "best blind"]
    assert table.loc["checkpoint-5", "mean"].startswith("65.0 [")
    assert all(SIGNIFICANT in cell for cell in table.loc["checkpoint-5"])
    assert table.loc["checkpoint-9", "Complex"] == "-"
    assert table.loc["checkpoint-9", "Spatial"].endswith("]" + INCOMPLETE)
    assert table.loc["failed", "Spatial"] == "-" + INCOMPLETE
    assert SIGNIFICANT not in "".join(table.loc["Baseline"])
    for row in table.to_numpy():
        assert "0.0" not in {cell.split()[0] for cell in row}  # nothing missing is shown as a zero


def test_it_says_whose_mean_the_last_column_is(results: Path) -> None:
    write_summary(results)
    page = (results / "summary.md").read_text()
    assert "over the six dimensions, each alike, however many tasks" in page
    assert "tasks: " not in page  # all have two
    path = results / "Complex" / "Baseline" / "final_score.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task_c": {"0": dict.fromkeys(SCORE_KEYS, 20.0)}}))
    write_summary(results)
    page = (results / "summary.md").read_text()
    assert "tasks: M&T 2, CommonSense 2, Semantic 2, Spatial 2, PhysicsLaw 2, Complex 3; the mean of six is" in page


def test_the_files_hold_the_same_numbers(results: Path) -> None:
    write_summary(results)
    content = json.loads((results / "summary.json").read_text())
    csv = pd.read_csv(results / "summary.csv")
    (mean,) = [r for r in content["means"] if (r["model"], r["dimension"]) == ("checkpoint-5", "mean")]
    row = csv[(csv["model"] == "checkpoint-5") & (csv["dimension"] == "mean")].iloc[0]
    assert mean["mean"] == row["mean"] == 65.0
    assert mean["low"] < 65.0 < mean["high"]
    (missing,) = [r for r in content["means"] if (r["model"], r["dimension"]) == ("checkpoint-9", "Complex")]
    assert missing["mean"] is None
    (paired,) = [r for r in content["comparisons"] if (r["model"], r["dimension"]) == ("checkpoint-9", "Spatial")]
    assert (paired["pairs"], paired["significant"]) == (16, False)
    assert "whole tasks resampled" in (results / "summary.md").read_text()


def test_without_a_baseline_there_is_no_comparison(results: Path) -> None:
    for table in write_summary(results, baseline="nobody").values():
        assert SIGNIFICANT not in "".join(table.to_numpy().ravel())
    assert json.loads((results / "summary.json").read_text())["comparisons"] == []


def test_what_was_asked_in_other_ways_is_never_called_significant(results: Path) -> None:
    for model, cot in (("Baseline", False), ("checkpoint-5", True)):
        for path in results.glob(f"*/{model}/manifest.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "settings": {"with_cot": cot}}))
    assert SIGNIFICANT not in "".join(write_summary(results)["total_score"].loc["checkpoint-5"])
    content = json.loads((results / "summary.json").read_text())
    assert {row["significant"] for row in content["comparisons"] if row["model"] == "checkpoint-5"} == {None}
    assert "is called significant: checkpoint-5: with_cot True against False" in content["unlike"]
    done = run_script("scripts/evaluation/compare_models.py", "checkpoint-5", "Baseline", "--results_dir", str(results))
    assert "no difference is called significant: they were asked or scored in other ways" in done.stdout
    assert "checkpoint-5: with_cot True against False" in done.stdout


def test_models_asked_with_leaps_prompt_are_labelled(results: Path) -> None:
    for path in results.glob("*/checkpoint-5/manifest.json"):
        settings = {"prompt": {"source": "leap", "language": "en"}}
        path.write_text(json.dumps({**json.loads(path.read_text()), "settings": settings}))
    write_summary(results)
    note = "asked with LEAP's own prompt, not to compare with VLABench's published tables: checkpoint-5"
    assert json.loads((results / "summary.json").read_text())["prompt"] == note
    assert "VLABench's published tables: checkpoint-5" in (results / "summary.md").read_text()


def test_the_baseline_alone_has_a_summary(tmp_path: Path) -> None:
    """As after the first evaluation of a workspace."""
    write_results(tmp_path, "Baseline", [20, 40])
    assert write_summary(tmp_path)["total_score"].loc["Baseline", "mean"].startswith("30.0")
    assert json.loads((tmp_path / "summary.json").read_text())["comparisons"] == []


def test_two_models_are_compared_and_the_comparison_is_kept(results: Path) -> None:
    done = run_script("scripts/evaluation/compare_models.py", "checkpoint-5", "Baseline", "--results_dir", str(results))
    assert done.returncode == 0, done.stderr
    assert "differs significantly in: M&T" in done.stdout
    kept = json.loads((results / "comparisons" / "checkpoint-5_vs_Baseline.json").read_text())
    assert [row["dimension"] for row in kept["rows"]] == [*NAMES, "mean"]
    assert kept["rows"][0]["difference"] == pytest.approx(65.0 - 17.5)


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [(["nobody", "Baseline"], "nobody", 1), (["checkpoint-5", "Baseline", "--score", "luck"], "luck", 2)],
)
def test_an_unknown_model_or_score_is_named(results: Path, arguments: list[str], words: str, code: int) -> None:
    done = run_script("scripts/evaluation/compare_models.py", *arguments, "--results_dir", str(results))
    assert done.returncode == code
    assert words in done.stderr
