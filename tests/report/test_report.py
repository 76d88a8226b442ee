"""Tables and figures of stored results: the means are right, and what has no score is never a 0."""

import io
import json
import re
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from rich.console import Console

from leap.errors import LeapError
from leap.evaluation.result_folder import DimensionResult
from leap.evaluation.score import Counts
from leap.evaluation.settings import ImageControl
from leap.progress import rounded
from leap.records.benchmark import Prediction
from leap.report import figures
from leap.report.changed_examples import read_changes
from leap.report.charts import GROUPS
from leap.report.comparison_page import print_comparison, readable, write_comparison
from leap.report.curves import read_loss, training_loss
from leap.report.figures import Evaluation, draw_figures
from leap.report.live import print_results
from leap.report.results import (
    dimension_means,
    found_models,
    incomplete_note,
    model_order,
    read_blind,
    read_counts,
    read_kinds,
    read_scores,
    unlike_note,
    unlike_settings_note,
    unscored_examples,
)
from leap.report.results_summary import write_summary
from leap.report.selection import find_series
from leap.report.style import CONTROLS, GREY, label, lightened, looks, save
from leap.report.tables import _cells, improvement, metric_table, print_table, total_table, write_tables
from leap.report.unfinished import unfinished_note, unfinished_results
from leap.statistics.comparison import compare
from leap.vlabench.dimensions import NAMES
from leap.vlabench.scoring import LEAP_KEYS

SCRIPT = REPOSITORY / "scripts" / "evaluation" / "draw_evaluation_results.py"


def write_result(results: Path, model: str, dimension: str, totals: list[float], unscored: int = 0) -> None:
    """A result folder as an evaluation leaves it, with these total scores."""
    folder = results / dimension / model
    folder.mkdir(parents=True)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for number, total in enumerate(totals):
        skill, entity = total, 1.5 * total
        official = [skill, entity, total / 2, total / 4, 0.4 * skill + 0.4 * entity]
        named = dict(zip(figures._METRICS.values(), official, strict=False)) | {"total_score": official[-1]}
        scores.setdefault(f"task_{number % 2}", {})[str(number)] = {**named, **dict.fromkeys(LEAP_KEYS, 1.0)}
    (folder / "final_score.json").write_text(json.dumps(scores))
    counts = Counts(len(totals) + unscored, len(totals), 1, 0, unscored, 0)
    diagnosis = {"kinds": {"wrong object": len(totals)}, "flags": {}}
    (folder / "manifest.json").write_text(json.dumps({"counts": counts.to_dict(), "diagnosis": diagnosis}))


def write_results(results: Path, models: dict[str, float], leave_out: tuple[str, str] | None = None) -> None:
    """Every model on the six dimensions: dimension i of a model with level s has the totals s + i and s + i + 2."""
    for model, level in models.items():
        for index, dimension in enumerate(NAMES):
            if (model, dimension) != leave_out:
                write_result(results, model, dimension, [level + index, level + index + 2])


def read(results: Path, baseline: str | None = "Baseline") -> Evaluation:
    return Evaluation.of_results(results, found_models(results), baseline)


def bars_of(figure: Figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def points_of(line: Line2D) -> list[list[float]]:
    """[step, value] of each point."""
    return np.asarray(line.get_xydata()).tolist()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leap.report.style.DPI", 30)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The baseline at 10 and a checkpoint at 20."""
    write_results(tmp_path, {"checkpoint-200": 20, "Baseline": 10})
    return tmp_path


# Results


def test_means_are_over_examples_and_the_mean_over_the_six_dimensions(two: Path) -> None:
    means = dimension_means(read_scores(two))
    assert list(means.index) == ["Baseline", "checkpoint-200"]
    assert list(means.columns) == [*NAMES, "mean"]
    assert means.loc["Baseline", list(NAMES)].tolist() == [11, 12, 13, 14, 15, 16]
    assert means.loc["checkpoint-200", "mean"] == 23.5


def test_models_are_ordered_by_step_with_the_baseline_first() -> None:
    models = ["lora-checkpoint-20", "checkpoint-1000", "Baseline_blank", "checkpoint-200_blank", "checkpoint-200"]
    ordered = ["Baseline_blank", "checkpoint-200", "checkpoint-200_blank", "checkpoint-1000", "lora-checkpoint-20"]
    assert model_order([*models, "Baseline"]) == ["Baseline", *ordered]
    assert model_order(["²", "1"]) == ["1", "²"]


def test_no_results_and_malformed_results_are_errors(tmp_path: Path) -> None:
    with pytest.raises(LeapError, match="no results there yet"):
        read_scores(tmp_path)
    folder = tmp_path / "Spatial" / "Baseline"
    folder.mkdir(parents=True)
    (folder / "final_score.json").write_text('{"task": {"1": 3}}')
    with pytest.raises(LeapError, match=r"final_score\.json: task\.1"):
        read_scores(tmp_path)


def test_a_model_without_any_score_stays_in_the_tables_as_empty(two: Path) -> None:
    write_result(two, "checkpoint-400", "Spatial", [], unscored=5)
    scores, counts = read_scores(two), read_counts(two)
    table = total_table(scores, counts, "Baseline")
    assert table.loc["checkpoint-400", [*NAMES, "mean", "improvement %"]].isna().all()
    assert table.loc["checkpoint-400", "unscored"] == 5
    only = read_scores(two, ["checkpoint-400"]), read_counts(two, ["checkpoint-400"])
    assert only[0].empty
    assert total_table(*only, None)[list(NAMES)].isna().all(axis=None)


def test_counts_without_a_manifest_are_unknown(two: Path) -> None:
    (two / "Spatial" / "Baseline" / "manifest.json").unlink()
    counts = read_counts(two)
    assert unscored_examples(counts).loc["Baseline", ["Spatial", "mean"]].isna().all()
    assert unscored_examples(counts).loc["checkpoint-200", "Spatial"] == 0
    assert incomplete_note(counts) == "perhaps incomplete, without counts in manifest.json: Baseline, Spatial"
    marks = read(two).marks
    assert marks.loc["Baseline", ["Spatial", "Complex", "mean"]].tolist() == [True, False, True]
    assert not marks.loc["checkpoint-200"].any()
    table = write_summary(two)["total_score"]
    assert table.loc["Baseline", "Spatial"].endswith("*")
    assert "*" not in table.loc["Baseline", "Complex"]
    write_result(two, "checkpoint-400", "M&T", [30.0], unscored=3)
    assert incomplete_note(read_counts(two)).startswith("incomplete: 3 of 4 examples unscored (checkpoint-400, M&T")
    assert incomplete_note(read_counts(two)).endswith("Baseline, Spatial")


def test_incomplete_and_unlike_results_are_named(two: Path) -> None:
    write_result(two, "checkpoint-400", "M&T", [30.0], unscored=3)
    scores, counts = read_scores(two), read_counts(two)
    assert incomplete_note(counts) == "incomplete: 3 of 4 examples unscored (checkpoint-400, M&T: 3 of 4)"
    assert unlike_note(scores, "Baseline") == "not over the same examples as Baseline: checkpoint-400, M&T"
    assert unlike_note(scores[scores["model"] != "checkpoint-400"], "Baseline") == ""


# Tables


def test_improvement_is_over_the_named_baseline(two: Path) -> None:
    scores, counts = read_scores(two), read_counts(two)
    table = total_table(scores, counts, "Baseline")
    assert table.loc["checkpoint-200", "improvement %"] == pytest.approx((23.5 / 13.5 - 1) * 100)
    assert pd.isna(table.loc["Baseline", "improvement %"])
    assert total_table(scores, counts, "checkpoint-200").loc["Baseline", "improvement %"] < 0
    with pytest.raises(LeapError, match="'Base' is not among the models: Baseline, checkpoint-200"):
        total_table(scores, counts, "Base")


def test_a_baseline_of_zero_gives_no_percentage() -> None:
    points, percent = improvement(pd.DataFrame({"mean": [0.0, 5.0]}, ["Baseline", "better"]), "Baseline")
    assert points["mean"].tolist() == [0, 5]
    assert percent["mean"].isna().all()


def test_a_missing_dimension_is_empty_everywhere(tmp_path: Path) -> None:
    write_results(tmp_path, {"Baseline": 10, "checkpoint-200": 20}, leave_out=("checkpoint-200", "Complex"))
    scores, counts = read_scores(tmp_path), read_counts(tmp_path)
    tables = {
        "scores": total_table(scores, counts, "Baseline"),
        "metrics": metric_table(scores, counts, read_blind(tmp_path)),
    }
    written = {path.name: path.read_text() for path in write_tables(tables, tmp_path / "tables")}
    assert set(written) == {"scores.csv", "scores.md", "metrics.csv", "metrics.md"}
    assert written["scores.csv"].splitlines()[2] == "checkpoint-200,21.0,22.0,23.0,24.0,25.0,,,,0"
    assert "| checkpoint-200 | 21.00 | 22.00 | 23.00 | 24.00 | 25.00 | - | - | - | 0 |" in written["scores.md"]
    assert tables["metrics"].loc["checkpoint-200", ["total", "dimensions", "examples"]].tolist() == [23, 5, 10]


def test_incomplete_models_are_marked_in_tables(two: Path) -> None:
    write_result(two, "a|[b]", "M&T", [30.0], unscored=3)
    scores, counts = read_scores(two), read_counts(two)
    for table in (total_table(scores, counts, None), metric_table(scores, counts, read_blind(two))):
        screen = io.StringIO()
        print_table(table, "title", Console(file=screen, width=40))
        shown = screen.getvalue()
        assert "a|[b] *" in shown
        assert "* incomplete" in shown
        assert "Baseline *" not in shown
        assert "…" not in shown
        (markdown,) = [path.read_text() for path in write_tables({"t": table}, two) if path.suffix == ".md"]
        assert "| a\\|[b] * |" in markdown
        assert "\n\\* incomplete" in markdown


@pytest.mark.parametrize("width", [30, 46, 80, 120, 400])
def test_tables_fit_the_terminal(two: Path, width: int) -> None:
    """Columns that do not fit come below; no number is cut, and no line is longer than the screen."""
    name = "lora_standard-checkpoint-200_3shot_upstream-shots_CoT_zh_swapped"
    write_result(two, name, "M&T", [30.0], unscored=3)
    scores, counts = read_scores(two), read_counts(two)
    compared = readable(compare(scores, "checkpoint-200", "Baseline"))
    summary = write_summary(two)["total_score"]
    metrics = metric_table(scores, counts, read_blind(two))
    for table in (total_table(scores, counts, "Baseline"), metrics, summary, compared):
        screen = io.StringIO()
        print_table(table, "A title that says what the numbers below are", Console(file=screen, width=width))
        lines = screen.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in screen.getvalue()
        shown = Counter("".join(lines).split())
        numbers = [cell for row in _cells(table)[1:] for cell in row[1:] if re.fullmatch(r"-?[\d.]+", cell)]
        assert all(shown[number] >= count for number, count in Counter(numbers).items())
        if width == 400:
            assert sum("─" in line for line in lines) == 1


def test_a_p_value_is_never_shown_as_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, level in {"Baseline": 0.0, "other": 9.0}.items():
        for dimension in NAMES:
            write_result(tmp_path, model, dimension, [level + number for number in range(12)])
    table = compare(read_scores(tmp_path), "other", "Baseline")
    assert 0 < table["p"].max() < 0.005
    print_comparison(table, "total_score")
    nothing = read_changes(tmp_path, "other", "Baseline")
    written = {
        path.suffix: path.read_text() for path in write_comparison(table, nothing, tmp_path / "c", "total_score")
    }
    for shown in (capsys.readouterr().out, written[".md"]):
        assert shown.count("< 0.01") >= 2 * len(NAMES) + 1
    assert "< 0.01" not in written[".csv"]
    assert [rounded(value, 3) for value in (0.0004, 0.001, 0.25, 1.0)] == ["< 0.001", "0.001", "0.250", "1.000"]
    assert (rounded(0.0), rounded(0.004), rounded(-0.004)) == ("0.00", "< 0.01", "-0.00")


def test_an_evaluation_ends_with_its_tables(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete = DimensionResult("Spatial", two / "Spatial" / "Baseline", Counts(2, 2, 0, 0, 0, 0))
    assert print_results([complete], two)
    write_result(two, "checkpoint-400", "Spatial", [], unscored=5)
    failed = DimensionResult("Spatial", two / "Spatial" / "checkpoint-400", Counts(5, 0, 0, 0, 5, 0))
    assert not print_results([failed], two)
    assert "INCOMPLETE Spatial/checkpoint-400: 5 inference errors" in capsys.readouterr().out


# Figures


def test_bars_have_the_height_of_the_means(two: Path) -> None:
    write_result(two, "Baseline_blank", "M&T", [4.0])
    evaluation = read(two)
    figure = figures.total_scores(evaluation)
    bars = bars_of(figure)
    means = evaluation.means("total_score")
    expected = [value for model in means.index for value in means.loc[model] if pd.notna(value)]
    assert [bar.get_height() for bar in bars] == pytest.approx(expected)
    assert len(bars) == 2 * len(GROUPS) + 1
    assert sum("n/a" in text for text in texts(figure)) == len(GROUPS) - 1
    assert "total score (official, max 80)" in texts(figure)
    assert "M&T\nn = 1-2" in texts(figure)


def test_stacked_parts_add_up_to_the_total(two: Path) -> None:
    bars = bars_of(figures.stacked(read(two)))
    tops = [bar.get_y() + bar.get_height() for bar in bars]
    assert bars[0].get_height() == pytest.approx(0.4 * 11)
    assert tops[1] == pytest.approx(11)
    assert len(bars) == 4 * len(GROUPS)


def test_improvement_bars_are_differences_in_points(two: Path) -> None:
    figure = figures.improvement_figure(read(two))
    assert [bar.get_width() for bar in bars_of(figure)] == pytest.approx([10] * len(GROUPS))
    assert "+10.0 (+90.9%)" in texts(figure)
    other = figures.improvement_figure(read(two, "checkpoint-200"))
    assert bars_of(other)[0].get_width() == pytest.approx(-10)


def test_the_baseline_is_grey_and_a_control_has_the_colour_of_its_model() -> None:
    found = looks(["Baseline", "Baseline_blank", "checkpoint-2", "checkpoint-2_swapped", "checkpoint-3"], "Baseline")
    assert found["Baseline"].colour == found["Baseline_blank"].colour == GREY
    assert found["checkpoint-2"].colour == found["checkpoint-2_swapped"].colour
    assert len({look.colour for look in found.values()}) == 3
    assert found["checkpoint-2_swapped"].hatch != found["Baseline_blank"].hatch
    assert not found["checkpoint-2"].hatch
    assert looks(["Baseline", "checkpoint-2"], "checkpoint-2")["checkpoint-2"].colour == GREY


@pytest.mark.parametrize("draw", [figures.total_scores, figures.metrics, figures.stacked, figures.improvement_figure])
@pytest.mark.parametrize("n_models", [2, 12])
def test_incomplete_results_have_an_asterisk_and_a_footnote(
    tmp_path: Path, draw: Callable[[Evaluation], Figure], n_models: int
) -> None:
    write_results(tmp_path, {"Baseline": 10, **{f"checkpoint-{step}": 20 for step in range(2, n_models)}})
    write_result(tmp_path, "checkpoint-50", "M&T", [30.0], unscored=3)
    write_result(tmp_path, "checkpoint-50", "Spatial", [], unscored=4)
    figure = draw(read(tmp_path))
    figure.draw_without_rendering()
    shown = texts(figure)
    assert any(text.startswith("* incomplete: 7 of 8 examples unscored") for text in shown)
    assert any(text.strip() == "n/a*" for text in shown)
    assert any("*" in text and text.strip()[0] in "+0123456789" for text in shown)


@pytest.mark.slow
def test_all_figures_are_written_and_stale_ones_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, {"Baseline": 10, "checkpoint-200": 20, "checkpoint-1000": 25, "checkpoint-400": 22})
    write_state(tmp_path / "run" / "checkpoint-30", [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}])
    loss = read_loss(tmp_path / "run")
    written = draw_figures(read(tmp_path), loss, tmp_path, formats=["png", "svg"])
    assert [path.name for path in written] == [f"{name}.{kind}" for name in figures.FIGURES for kind in ("png", "svg")]
    assert all(path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml") for path in written)
    monkeypatch.setattr(figures, "save", lambda figure, path, formats: [path.with_suffix(".svg")])
    without = draw_figures(read(tmp_path, baseline=None), None, tmp_path)
    assert [path.stem for path in without] == ["total_scores", "diagnosis", "metrics", "stacked", "checkpoints"]
    assert sorted(tmp_path.glob("*.svg")) == sorted(without)


def test_the_same_results_give_the_same_bytes_in_the_formats_asked_for(two: Path) -> None:
    first, second = (
        [path.read_bytes() for path in save(figures.total_scores(read(two)), two / "drawn", ["png", "svg", "pdf"])]
        for _ in range(2)
    )
    assert first == second
    assert first[2].startswith(b"%PDF")
    save(figures.total_scores(read(two)), two / "drawn", ["pdf"])
    assert [path.name for path in two.glob("drawn.*")] == ["drawn.pdf"]


@pytest.mark.parametrize("draw", [figures.total_scores, figures.metrics, figures.stacked])
def test_every_bar_has_an_interval_on_an_axis_up_to_the_maximum_and_its_number_below(
    two: Path, draw: Callable[[Evaluation], Figure]
) -> None:
    evaluation = read(two)
    for axes in draw(evaluation).axes:
        most = 80 if "80" in axes.get_ylabel() else 100
        assert axes.get_ylim() == (0, most)
        intervals = [line for line in axes.get_lines() if line.get_marker() == "_"]
        bars = {round(bar.get_x() + bar.get_width() / 2, 6) for bar in axes.patches if isinstance(bar, Rectangle)}
        assert {round(points_of(line)[0][0], 6) for line in intervals} == bars
        numbers = [text for text in axes.texts if re.fullmatch(r"[\d.]+", text.get_text())]
        assert len(numbers) == 2 * len(GROUPS) == len(bars)
        assert all(text.xy[1] == 0 and text.xyann[1] < 0 for text in numbers)  # type: ignore[attr-defined]
    low, high = evaluation.intervals("total_score")
    first = next(line for line in draw(evaluation).axes[0].get_lines() if line.get_marker() == "_")
    if draw is not figures.metrics:
        assert points_of(first)[0][1] == pytest.approx(low.loc["Baseline", "M&T"])
        assert points_of(first)[1][1] == pytest.approx(high.loc["Baseline", "M&T"])


def test_many_models_keep_the_interval_of_their_mean(tmp_path: Path) -> None:
    write_results(tmp_path, {"Baseline": 10, **{f"checkpoint-{step}": 20 for step in range(1, 10)}})
    figure = figures.total_scores(read(tmp_path))
    cells, means = figure.axes
    assert means.get_xlim() == (0, 80)
    assert sum(line.get_marker() == "|" for line in means.get_lines()) == 10
    assert cells.collections[0].get_clim() == (0, 80)


def test_an_improvement_is_in_percent_only_where_the_baseline_allows_it(two: Path) -> None:
    write_result(two, "other", "M&T", [12.0, 14.0])
    unlike = [("other", "M&T")]
    found = read(two)
    evaluation = Evaluation(found.scores, found.counts, found.blind, found.kinds, "Baseline", unlike=unlike)
    shown = texts(figures.improvement_figure(evaluation))
    assert "+10.0 (+90.9%)" in shown
    assert "+2.0" in shown
    assert "+2.0 (+18.2%)" in texts(figures.improvement_figure(found))
    percent = improvement(evaluation.means("total_score"), "Baseline", unlike)[1]
    assert percent.loc["other"].isna().all()
    assert percent.loc["checkpoint-200", "mean"] == pytest.approx(1000 / 13.5)
    assert pd.isna(
        total_table(found.scores, found.counts, "Baseline", [("checkpoint-200", "Complex")]).iloc[1]["improvement %"]
    )


def test_an_improvement_is_that_of_pairs_with_its_interval(tmp_path: Path) -> None:
    write_results(tmp_path, {"Baseline": 10})
    for index, dimension in enumerate(NAMES):
        write_result(tmp_path, "more", dimension, [20.0 + index, 22.0 + index, 70.0])  # the third has no pair
    figure = figures.improvement_figure(read(tmp_path))
    assert [bar.get_width() for bar in bars_of(figure)] == pytest.approx([10] * len(GROUPS))
    assert "+10.0" in texts(figure)  # the percentage would be of another difference
    assert sum(line.get_marker() == "|" for line in figure.axes[0].get_lines()) == len(GROUPS)


def test_checkpoints_of_a_run_are_shades_of_one_colour_in_every_figure(tmp_path: Path) -> None:
    models = {"Baseline": 10.0, "checkpoint-200": 20.0, "checkpoint-400": 22.0, "checkpoint-1000": 25.0, "other": 9.0}
    write_results(tmp_path, models)
    evaluation = read(tmp_path)
    full = evaluation.looks["checkpoint-1000"].colour
    assert evaluation.looks["checkpoint-200"].colour == lightened(full)
    assert len({look.colour for look in evaluation.looks.values()}) == 5
    curves = figures.checkpoints(evaluation, find_series(models)).axes[0]
    assert full in {line.get_color() for line in curves.get_lines()}


def test_a_control_is_called_what_it_shows() -> None:
    assert set(CONTROLS) == {control for control in get_args(ImageControl) if control != "none"}
    assert label("checkpoint-5_swapped") == "checkpoint-5, other scenes' images"
    assert label("Baseline_absent") == "Baseline, no images"
    assert label("checkpoint-5_blank_4bit") == "checkpoint-5_4bit, blank images"
    assert label("a$b") == r"a\$b"


# Curves


def write_state(checkpoint: Path, log_history: object) -> None:
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 30, "log_history": log_history}))


def test_a_series_is_three_checkpoints_of_one_run() -> None:
    names = [f"checkpoint-{step}" for step in (1000, 200, 400)] + [
        "lora-checkpoint-1",
        "checkpoint-200_blank",
        "Baseline",
    ]
    series = find_series(names)
    assert list(series) == ["checkpoint-N"]
    assert list(series["checkpoint-N"].values()) == [200, 400, 1000]


def test_checkpoint_lines_have_gaps_where_a_dimension_is_missing(tmp_path: Path) -> None:
    models = {"Baseline": 10.0, "checkpoint-200": 20.0, "checkpoint-400": 22.0, "checkpoint-1000": 25.0}
    write_results(tmp_path, models, leave_out=("checkpoint-400", "M&T"))
    evaluation = read(tmp_path)
    figure = figures.checkpoints(evaluation, find_series(models))
    level, line = figure.axes[0].get_lines()
    assert points_of(level)[0][1] == pytest.approx(11)
    for found, expected in zip(points_of(line), [[200, 21], [400, float("nan")], [1000, 26]], strict=True):
        assert found == pytest.approx(expected, nan_ok=True)


def test_the_loss_is_read_from_the_newest_log(tmp_path: Path) -> None:
    assert read_loss(tmp_path / "nowhere") is None
    write_state(tmp_path / "checkpoint-9", [{"step": 5, "loss": 9.0}])
    history = [{"step": 10, "loss": 2.0, "epoch": 0.1}, {"step": 10, "eval_loss": 3.0}, {"step": 30, "train_loss": 1.0}]
    write_state(tmp_path / "checkpoint-30", history)
    (tmp_path / "checkpoint-40").mkdir()  # cut short: no log yet
    loss = read_loss(tmp_path)
    assert loss is not None
    assert (loss.checkpoint.name, loss.training, loss.validation) == ("checkpoint-30", {10: 2.0}, {10: 3.0})
    assert [points_of(line) for line in training_loss(loss).axes[0].get_lines()] == [[[10, 2]], [[10, 3]]]
    write_state(tmp_path / "checkpoint-50", [{"loss": 1.0}])
    with pytest.raises(LeapError, match=r"checkpoint-50/trainer_state\.json: log_history\.0\.step"):
        read_loss(tmp_path)


# The script


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return run_path(monkeypatch, SCRIPT.name, *arguments)


def run_path(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPT.with_name(script)), run_name="__main__")
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_script_writes_tables_and_figures(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEAP_ROOT", str(two))
    assert run_script(monkeypatch, "--results_dir", ".", "--models", "checkpoint-200") == 0
    output = capsys.readouterr().out
    assert "no Baseline among the models" in output
    assert "no training loss is drawn" in output
    paths = [Path(line) for line in output.splitlines() if line.endswith((".png", ".csv", ".md"))]
    tables = [f"{name}.{kind}" for name in ("scores", "grounded", "metrics") for kind in ("csv", "md")]
    names = [*tables, "total_scores.png", "diagnosis.png", "metrics.png", "stacked.png"]
    assert paths == [two / "figures" / name for name in names]
    assert all(path.is_file() for path in paths)
    assert "Baseline" not in (two / "figures" / "scores.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--baseline", "Base"], 2, "--baseline Base: not among the models; there are: Baseline, checkpoint-200"),
        (["--models", "x", "Baseline"], 2, "no results of x; there are: Baseline, checkpoint-200"),
        (["--results_dir", "nowhere"], 1, "no results there yet"),
    ],
)
def test_script_says_what_is_wrong(
    two: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("LEAP_ROOT", str(two))
    assert run_script(monkeypatch, "--results_dir", two, *arguments) == code
    assert message in capsys.readouterr().err
    assert not (two / "figures").exists()


def stop(results: Path, model: str, dimension: str, answered: int, examples: int) -> None:
    """A result folder as a kill leaves it."""
    folder = results / dimension / model
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"status": "running", "data": {"examples": examples}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = [Prediction(task="t", example=str(number), text="").model_dump_json() for number in range(answered)]
    failed = Prediction(task="t", example="99", error="no server").model_dump_json()
    (folder / "predictions.jsonl").write_text("".join(f"{line}\n" for line in [*lines, failed]))


def test_evaluations_that_were_stopped_are_named_wherever_results_are_shown(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (two / "Spatial" / "checkpoint-200" / "final_score.json").unlink()
    stop(two, "checkpoint-200", "Spatial", 5, 18)
    stop(two, "checkpoint-200", "Complex", 3, 18)  # resumed with more examples: the scores are of the smaller run
    stop(two, "checkpoint-400", "PhysicsLaw", 1, 18)
    spatial = "checkpoint-200, Spatial: stopped at 5 of 18"
    complex_ = "checkpoint-200, Complex: stopped at 3 of 18, scores are from before"
    other = "checkpoint-400, PhysicsLaw: stopped at 1 of 18"
    assert unfinished_results(two) == [spatial, other, complex_]
    monkeypatch.setenv("LEAP_ROOT", str(two))
    assert run_script(monkeypatch, "--results_dir", ".", *"--figure total_scores --format png".split()) == 0
    assert f"{spatial}; {other}; {complex_}" in capsys.readouterr().out
    assert f"{spatial}; {other}; {complex_}" in (two / "summary.md").read_text()
    note = unfinished_note(two)
    assert note in Evaluation(read_scores(two), read_counts(two), read_blind(two), read_kinds(two), None, note).footnote
    assert run_script(monkeypatch, "--results_dir", ".", "--models", "checkpoint-400") == 2
    assert other in capsys.readouterr().err
    compare = partial(run_path, monkeypatch, "compare_models.py", "--results_dir", two)
    assert compare("checkpoint-200", "Baseline") == 0
    assert f"{spatial}; {complex_}" in capsys.readouterr().out
    written = two / "comparisons" / "checkpoint-200_vs_Baseline.json"
    assert spatial in json.loads(written.read_text())["note"]
    assert compare("checkpoint-400", "Baseline") == 1
    assert f"error: not finished (the same command goes on): {other}" in capsys.readouterr().err


def test_where_nothing_is_finished_that_is_said(tmp_path: Path) -> None:
    stop(tmp_path, "m", "Spatial", 2, 9)
    with pytest.raises(LeapError, match=r"no results there yet; not finished .*m, Spatial: stopped at 2 of 9"):
        found_models(tmp_path)
    (tmp_path / "Spatial" / "m" / "manifest.json").unlink()
    with pytest.raises(LeapError, match=r"answers without scores .*score_predictions"):
        read_scores(tmp_path)


def test_models_that_were_asked_in_another_way_are_reported(two: Path) -> None:
    for model, tokens in (("Baseline", [4, 9]), ("checkpoint-200", [4, 64])):
        for path in two.glob(f"*/{model}/manifest.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "settings": {"image_tokens": tokens}}))
    models = found_models(two)
    assert unlike_settings_note(two, models) == (
        "not asked alike, no difference of scores across these is called significant: "
        "checkpoint-200: image size 4 to 64 against 4 to 9 tokens"
    )
    assert unlike_settings_note(two, ["Baseline"]) == ""
    flags = {"image_tokens": [4, 9], "engine_arguments": ["--quantization", "fp8"]}
    for path in two.glob("*/checkpoint-200/manifest.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "settings": flags}))
    assert "engine_arguments ['--quantization', 'fp8'] against None" in unlike_settings_note(two, models)
