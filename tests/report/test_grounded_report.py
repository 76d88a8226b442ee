"""The grounded score beside the official one in tables, files and figures, and what never looking has beside both."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import run_script

from leap.errors import LeapError
from leap.evaluation.score import read_scores as read_score_file
from leap.report.figures import Evaluation, diagnosis, draw_figures, total_scores
from leap.report.results import (
    blind_means,
    found_models,
    ids_as_text_notes,
    read_blind,
    read_counts,
    read_kinds,
    read_scores,
)
from leap.report.results_summary import write_summary
from leap.report.style import FLOOR
from leap.report.tables import grounded_table, kind_table, metric_table
from leap.vlabench.dimensions import NAMES
from leap.vlabench.scoring import LEAP_KEYS, OFFICIAL_KEYS

BLIND = {
    "fingerprint": "f0",
    "floor": {"grounded": 20.0, "total_score": 48.0},
    "best_blind": {"grounded": 25.0, "total_score": 50.0},
}


def write_result(results: Path, model: str, dimension: str, grounded: list[float | None], **manifest: object) -> None:
    """Official scores of 40 and 60 with ids read as numbers; `manifest` replaces parts of it."""
    folder = results / dimension / model
    folder.mkdir(parents=True)
    other = dict.fromkeys(OFFICIAL_KEYS, 40.0) | dict.fromkeys(LEAP_KEYS, 1.0) | {"total_ids_as_numbers": 60.0}
    scores = {str(number): {**other, "grounded": value} for number, value in enumerate(grounded)}
    (folder / "final_score.json").write_text(json.dumps({"task": scores}))
    counts = dict.fromkeys(
        ("format_error", "refused", "filtered", "empty", "truncated", "inference_error", "missing"), 0
    )
    counts |= {"examples": len(scores), "scored": len(scores), "ids_as_text": 0, "names": 0}
    kinds = {"kinds": {"correct": 1, "wrong object": len(scores) - 1}, "flags": {"ids_as_text": 2}}
    content = {"counts": counts, "blind": BLIND, "diagnosis": kinds} | manifest
    (folder / "manifest.json").write_text(json.dumps(content))


def read(results: Path) -> Evaluation:
    return Evaluation.of_results(results, found_models(results), "Baseline")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for dimension in NAMES:
        write_result(tmp_path, "Baseline", dimension, [0.0, 50.0, None, 100.0])
        write_result(tmp_path, "checkpoint-5", dimension, [100.0, 100.0, None, 50.0])
    return tmp_path


def test_a_reference_without_objects_is_left_out_of_the_mean(results: Path) -> None:
    table = grounded_table(read_scores(results), read_counts(results), read_blind(results))
    assert table.loc["Baseline", "Spatial"] == pytest.approx(50)
    assert table.loc[["floor", "best blind"], "mean"].tolist() == [20, 25]
    metrics = metric_table(read_scores(results), read_counts(results), read_blind(results))
    assert metrics.loc["Baseline", ["total", "total_floor", "grounded", "grounded_floor"]].tolist() == [40, 48, 50, 20]


def test_the_summary_has_both_scores_with_what_never_looking_has(results: Path) -> None:
    tables = write_summary(results)
    assert tables["total_score"].loc["floor", "Spatial"] == "48.0"
    assert tables["grounded"].loc["best blind", "Spatial"] == "25.0"
    page = (results / "summary.md").read_text()
    assert page.index("| total_score |") < page.index("| grounded |") < page.index("floor: what a planner")
    content = json.loads((results / "summary.json").read_text())
    (row,) = [r for r in content["grounded"]["means"] if (r["model"], r["dimension"]) == ("Baseline", "mean")]
    assert (row["mean"], row["n"]) == (pytest.approx(50), 18)
    assert content["blind"][0]["data"] == "f0"
    csv = pd.read_csv(results / "summary.csv").set_index(["model", "dimension"])
    assert csv.loc[("Baseline", "M&T"), ["mean", "grounded", "grounded_n"]].tolist() == [40, pytest.approx(50), 3]
    assert csv.loc[("Baseline", "mean"), ["floor_grounded", "best_blind_total_score"]].tolist() == [20, 50]


def test_a_floor_is_drawn_across_each_group(results: Path) -> None:
    figure = total_scores(read(results))
    official, grounded = figure.axes
    for axes, height in ((official, 48), (grounded, 20)):
        lines = [line for line in axes.lines if line.get_color() == FLOOR]
        assert [list(line.get_ydata()) for line in lines] == [[height, height]] * 7
    assert official.get_ylim() == (0, 80)
    assert grounded.get_ylim() == (0, 100)
    (bar, _) = [patch for patch in grounded.patches if patch.get_height()][:2]
    assert bar.get_height() == pytest.approx(50)


def test_floors_of_different_data_are_not_shown_as_one(results: Path) -> None:
    write_result(results, "checkpoint-9", "Spatial", [1.0], blind={**BLIND, "fingerprint": "f1"})
    means = blind_means(read_blind(results), "grounded")
    assert means.loc["floor", ["Spatial", "mean"]].isna().all()
    assert means.loc["floor", "M&T"] == 20


def test_diagnoses_are_counted_and_drawn(results: Path) -> None:
    kinds = read_kinds(results)
    table = kind_table(kinds)
    assert table.columns.tolist() == ["correct", "wrong object", "ids as text"]
    assert table.loc["Baseline"].tolist() == [6, 18, 12]
    figure = diagnosis(read(results))
    first, *_, everything = figure.axes
    assert first.get_title("left") == "M&T\nn = 4"
    assert [text.get_text() for text in everything.texts] == ["6", "18"] * 2
    assert sorted({bar.get_width() for bar in everything.patches}) == [0, 25, 75]
    write_summary(results)
    assert "| Baseline | 6 | 18 | 12 |" in (results / "summary.md").read_text()
    csv = pd.read_csv(results / "summary.csv").set_index(["model", "dimension"])
    assert csv.loc[("Baseline", "M&T"), ["correct", "wrong object", "diagnosed_ids_as_text"]].tolist() == [1, 3, 2]


def test_a_figure_is_drawn_by_its_name(results: Path) -> None:
    script = "scripts/evaluation/draw_evaluation_results.py"
    done = run_script(script, "--results_dir", str(results), "--figure", "diagnosis")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (results / "figures").glob("*.[ps]*g")) == ["diagnosis.png", "diagnosis.svg"]
    done = run_script(script, "--results_dir", str(results), "--figure", "nonsense")
    assert done.returncode == 2
    assert "--figure nonsense: there is no such figure; choose from total_scores, diagnosis" in done.stderr


def test_results_of_an_older_leap_have_no_grounded_score_and_no_floor(results: Path) -> None:
    for path in results.glob("*/*/final_score.json"):
        found = json.loads(path.read_text())
        path.write_text(json.dumps({"task": {n: {k: s[k] for k in OFFICIAL_KEYS} for n, s in found["task"].items()}}))
        path.with_name("manifest.json").write_text(json.dumps({"counts": {"examples": 4, "scored": 4}}))
    scores, counts, blind = read_scores(results), read_counts(results), read_blind(results)
    assert scores["grounded"].isna().all()
    (axes,) = total_scores(read(results)).axes
    drawn = draw_figures(read(results), None, results, ("diagnosis", "metrics"), ["png"])
    assert [path.name for path in drawn] == ["metrics.png"]
    assert kind_table(read_kinds(results)).columns.tolist() == []
    assert not [line for line in axes.lines if line.get_color() == FLOOR]
    assert metric_table(scores, counts, blind)["grounded_floor"].isna().all()
    assert ids_as_text_notes(scores, counts) == []
    tables = write_summary(results)
    assert set(tables["grounded"].to_numpy().ravel()) == {"-"}
    assert tables["total_score"].loc["Baseline", "mean"].startswith("40.0")


def test_ids_as_text_get_a_sentence_where_they_are_many(results: Path) -> None:
    for model, number in (("rare", 1), ("often", 10)):
        counts = {"examples": 40, "scored": 40, "format_error": 20, "ids_as_text": number, "names": 2}
        write_result(results, model, "Spatial", [1.0] * 40, counts=counts)
    (note,) = ids_as_text_notes(read_scores(results), read_counts(results))
    assert note.startswith('often writes ids as text ("3" for 3) in 50% of its 20 plans')
    assert "it has 40.0 of 80, and would have 60.0 with ids read as numbers; 2 name objects instead" in note
    write_summary(results)
    assert "50% of its 20 plans" in (results / "summary.md").read_text()


def test_only_the_grounded_score_may_be_null(results: Path) -> None:
    path = results / "Spatial" / "Baseline" / "final_score.json"
    found = json.loads(path.read_text())
    assert read_score_file(path)["task"]["2"]["grounded"] is None
    found["task"]["2"]["total_score"] = None
    path.write_text(json.dumps(found))
    with pytest.raises(LeapError, match=r"task\.2\.total_score: null is no score"):
        read_score_file(path)
