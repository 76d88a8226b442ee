"""The report: what it holds is what the results say, hostile text is text, the same results make the same bytes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run_script

from leap.errors import LeapError
from leap.evaluation.rescore import rescore
from leap.judge.review_files import (
    OUTPUT_COLUMNS,
    OUTPUTS,
    PAIR_COLUMNS,
    PAIRS,
    SCORE_COLUMNS,
    SCORES,
    manifest_of,
    write_table,
)
from leap.records.benchmark import BenchmarkExample, Prediction
from leap.records.json_files import jsonl_line
from leap.records.locks import FolderLock
from leap.report.page import build_page
from leap.report.page.build_page import Sources, build
from leap.report.page.example_records import LONGEST_SHOWN
from leap.report.page.explanations import explain
from leap.report.page.review_samples import MEASURES
from leap.report.page.step_alignment import LONGEST, Row, align
from leap.report.page.stored_results import controls
from leap.vlabench.diagnosis import KINDS, Diagnosis, kind_of_plan
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples
from leap.vlabench.grounding import Step
from leap.vlabench.prompts import fenced_plan
from leap.vlabench.sources import LEAP_SCORER

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e</pre>\u2028'\"&"
WEIGHTS = {"model": {"weights": "w1"}}
PICK, PLACE, LIFT = Step("pick", 3, None), Step("place", None, 5), Step("lift", None, None)


def answers_with(text: Callable[[BenchmarkExample], str]) -> Callable[[BenchmarkExample], Prediction]:
    return lambda one: Prediction(task=one.task, example=str(one.number), text=text(one), finish="stop", new_tokens=7)


def right(example: BenchmarkExample) -> str:
    return fenced_plan(example.skill_sequence)


def wrong(example: BenchmarkExample) -> str:
    return fenced_plan([{"name": "pick", "params": {"target_entity_name": 99}}])


def write_model(
    results: Path, data: Path, model: str, answer: Callable[[BenchmarkExample], Prediction], manifest: dict[str, Any]
) -> None:
    """Results of a model on all dimensions, scored and diagnosed as an evaluation does."""
    for dimension in DIMENSIONS:
        folder = results / dimension.name / model
        folder.mkdir(parents=True)
        lines = [jsonl_line(answer(one)) for one in find_examples(data, dimension)]
        (folder / "predictions.jsonl").write_bytes(b"".join(lines))
        (folder / "manifest.json").write_text(json.dumps(manifest))
        rescore(folder, data, LEAP_SCORER)


def data_of(workspace: Path) -> Path:
    return workspace / "dataset" / "vlm_evaluation_v1.0"


def make_results(results: Path, data: Path) -> None:
    """A baseline that is always wrong, a checkpoint that is right on every first example and hostile on the others,
    and the same one shown other scenes' images, with a few-shot example: always wrong."""
    few_shot = {"few_shot": {"number": 1, "format": "fenced", "seed": 0}}
    write_model(results, data, "Baseline", answers_with(wrong), {})
    mixed = answers_with(
        lambda one: right(one) if one.number == 0 else HOSTILE + "x" * (LONGEST_SHOWN * (one.number == 1))
    )
    write_model(results, data, "checkpoint-5", mixed, WEIGHTS)
    swapped = {**WEIGHTS, "settings": {"image_control": "swapped", **few_shot}}
    write_model(results, data, "checkpoint-5_swapped", answers_with(wrong), swapped)


@pytest.fixture(scope="module")
def results(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "eva_results"
    make_results(folder, data_of(workspace))
    return folder


def sources(results: Path, workspace: Path, *models: str) -> Sources:
    named = models or ("Baseline", "checkpoint-5", "checkpoint-5_swapped")
    return Sources(results, data_of(workspace), results / "blind_10", workspace, named, "Baseline", {})


def calls(file: Path) -> list[Any]:
    """The arguments of a data file's one call."""
    match = re.fullmatch(r"leapReport\((.*)\);\n", file.read_text("ascii"), re.DOTALL)
    assert match
    return json.loads(f"[{match[1]}]")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def report(results: Path, workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources(results, workspace), tmp_path_factory.mktemp("page") / "report").page.parent


# Steps side by side


@pytest.mark.parametrize(
    ("reference", "plan", "rows"),
    [
        ([PICK, LIFT], [PICK, LIFT], [Row(0, 0, "matched"), Row(1, 1, "matched")]),
        ([PICK, LIFT], [Step("pick", 4, None), LIFT], [Row(0, 0, "wrong"), Row(1, 1, "matched")]),
        ([PICK, PLACE], [PLACE], [Row(0, None, "missing"), Row(1, 0, "matched")]),
        ([PICK], [PICK, LIFT, LIFT], [Row(0, 0, "matched"), Row(None, 1, "extra"), Row(None, 2, "extra")]),
        ([PICK, PLACE], [PLACE, PICK], [Row(None, 0, "moved"), Row(0, 1, "matched"), Row(1, None, "moved")]),
        ([PICK], [LIFT], [Row(0, 0, "wrong")]),
        ([], [PICK], [Row(None, 0, "extra")]),
        ([PICK], [], [Row(0, None, "missing")]),
    ],
)
def test_steps_stand_beside_their_partners(reference: list[Step], plan: list[Step], rows: list[Row]) -> None:
    assert align(reference, plan) == rows


def test_long_plans_are_aligned_as_far_as_the_page_shows_them() -> None:
    rows = align([PICK], [LIFT] * 10_000)
    assert [row.said for row in rows] == list(range(LONGEST))


@pytest.mark.parametrize(
    ("reference", "plan", "sentence"),
    [
        ([PICK], [Step("pick", 5, None)], "Step 1: picked the apple (5) for the lemon (3)."),
        ([PICK, PLACE], [PICK, Step("place", None, 9)], "Step 2: placed it at 9 for the apple (5)."),
        ([PICK, LIFT], [PICK], "Missing: lift."),
        ([PICK], [Step("pick", "x" * 1_000_000, None)], f"Step 1: picked {'x' * 100}… for the lemon (3)."),
        ([PICK], [PICK, PLACE], "Step 2 is not in the reference: place the apple (5)."),
        (
            [PICK, PLACE],
            [PICK, Step("pour", None, 5)],
            "Step 2: pour the apple (5), where the reference has place the apple (5).",
        ),
    ],
)
def test_a_diagnosis_names_the_objects(reference: list[Step], plan: list[Step], sentence: str) -> None:
    diagnosis = Diagnosis(task="t", example="0", kind=kind_of_plan(reference, plan, False))
    names = {3: "lemon", 5: "apple"}
    assert explain(diagnosis, reference, plan, align(reference, plan), names) == [sentence]


def test_many_differences_are_counted() -> None:
    diagnosis = Diagnosis(task="t", example="0", kind="wrong skill")
    found = explain(diagnosis, [PICK] * 7, [LIFT] * 7, align([PICK] * 7, [LIFT] * 7), None)
    assert found[0] == "Step 1: lift, where the reference has pick 3."
    assert found[-1] == "And 3 more."


# What is written


def test_the_index_has_every_example_and_each_models_diagnosis(report: Path) -> None:
    (kind, index) = calls(report / "data" / "index.js")
    assert kind == "index"
    assert len(index["examples"]) == 12
    assert [one["of"] for one in index["models"]] == [None, None, "checkpoint-5"]
    names = [[KINDS[found] for found in row] for row in index["kind"]]
    assert names[1][:2] == ["correct", "unreadable"]
    assert set(names[0]) == {"wrong object", "wrong skill", "missing steps"} & set(names[0])
    assert index["grounded"][1][:2] == [100, 0]


def test_hostile_text_stays_text_and_long_ones_are_cut(report: Path) -> None:
    for path in (report / "data").iterdir():
        assert not re.search(r"[^\x20-\x7e\n]", path.read_text("ascii"))
    assert "<script>alert" not in (report / "index.html").read_text()
    (_, _, records) = calls(report / "data" / "examples-0.js")
    response = records[1]["responses"][1]
    assert response["length"] == len(HOSTILE) + LONGEST_SHOWN
    assert response["text"].startswith("<script>alert(1)</script>\\u001b[31m\\u202e</pre>\\u2028")
    assert response["text"].count("x") == LONGEST_SHOWN - len(HOSTILE)


def test_a_hostile_model_name_is_escaped(results: Path, workspace: Path, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\"'"
    shutil.copytree(results / "Spatial" / "Baseline", tmp_path / "Spatial" / name)
    page = build(sources(tmp_path, workspace, name), tmp_path / "report").page.read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;&#34;&#39;" in page


def test_the_page_allows_nothing_but_its_own_files(report: Path) -> None:
    page = (report / "index.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'")
    assert not re.search(r"<[^>]+\s(style|on\w+)=|<script>|https?://", page)
    assert "innerHTML" not in (report / "report.js").read_text()


def test_images_are_there_once_and_swapped_ones_are_named(report: Path, workspace: Path) -> None:
    (_, _, records) = calls(report / "data" / "examples-0.js")
    named = {name for record in records for name in record["images"]}
    assert {path.name for path in (report / "images").iterdir()} == named
    assert len(named) == 24
    swapped = records[0]["responses"][2]
    assert swapped["images"] == records[1]["images"]
    assert len(swapped["few_shot"]) == 1
    assert set(swapped["few_shot"][0]["images"]) < named
    assert "images" not in records[0]["responses"][1]


def test_the_same_results_make_the_same_bytes_and_images_are_taken_over(
    report: Path, results: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "report"
    shutil.copytree(report, again)
    monkeypatch.setattr("leap.report.page.page_images.load_image", None)  # none is decoded a second time
    build(sources(results, workspace), again)
    assert contents(again) == contents(report)


def test_what_is_missing_is_said_and_the_rest_shown(results: Path, workspace: Path, tmp_path: Path) -> None:
    part = tmp_path / "eva_results"
    shutil.copytree(results / "Spatial", part / "Spatial")
    (part / "Spatial" / "Baseline" / "predictions.jsonl").unlink()
    (part / "Spatial" / "checkpoint-5" / "diagnosis.jsonl").unlink()
    data = tmp_path / "data"
    shutil.copytree(data_of(workspace) / "Spatial", data / "Spatial")
    sorted(data.rglob("input.png"))[0].write_bytes(b"no image")
    reference = sorted(data.rglob("operation_sequence.json"))[1]
    reference.write_text(reference.read_text().replace("pick", "press"))
    found = sources(part, workspace)
    built = build(Sources(**{**vars(found), "data": data}), tmp_path / "report")
    other = "the benchmark had ot"
    assert [note.partition(": ")[2][:20] for note in built.notes] == [
        "no predictions.jsonl", other, "no diagnosis.jsonl; ", other, other, "the image is missing",
    ]  # fmt: skip
    (_, _, records) = calls(built.page.parent / "data" / "examples-0.js")
    assert records[0]["images"][0] is None
    assert "text" not in records[0]["responses"][0]
    assert "kind" not in records[0]["responses"][1]


def test_without_the_benchmark_there_are_responses_alone(results: Path, workspace: Path, tmp_path: Path) -> None:
    found = sources(results, workspace)
    built = build(Sources(**{**vars(found), "data": tmp_path / "none", "root": tmp_path}), tmp_path / "report")
    (note,) = built.notes
    assert note.startswith("no images, instructions or references are shown")
    assert str(tmp_path) in note
    assert str(tmp_path) not in built.page.read_text()  # which others see
    (_, _, records) = calls(built.page.parent / "data" / "examples-0.js")
    assert records[0]["reference"] is None
    assert records[0]["responses"][0]["plan"] == [["pick", "99", None]]
    assert records[0]["responses"][2]["few_shot"] == "unknown"


def test_the_samples_of_a_blind_review_stand_behind_the_dimensions(
    results: Path, workspace: Path, tmp_path: Path
) -> None:
    review = tmp_path / "blind_10"
    image = next(data_of(workspace).rglob("input.png")).relative_to(workspace)
    output = {"sample_idx": 0, "image_paths": str(image), "prompt_text": "Do it.", "reference_steps": "1) All."}
    outputs = [
        {**output, "model_name": "Baseline", "model_output": "1) Nothing."},
        {**output, "model_name": "other", "error": "out of memory"},
    ]
    write_table(review, OUTPUTS, outputs, OUTPUT_COLUMNS)
    verdict = {"judge": "j", "sample_idx": 0, "repeat": 1, "model_name": "Baseline", "rationale": HOSTILE}
    scores = write_table(review, SCORES, [{**verdict, **dict.fromkeys(MEASURES, 2)}], SCORE_COLUMNS)
    pair = {"model_a": "Baseline", "model_b": "other", "sample_idx": 0, "judge": "j", "repeat": 1, "outcome": "tie"}
    pairs = write_table(review, PAIRS, [{**pair, "rationale_ab": "Both fail."}], PAIR_COLUMNS)
    manifest_of(scores).write_text(json.dumps({"tables": [pairs.name]}))
    found = sources(results, workspace, "Baseline")
    built = build(Sources(**{**vars(found), "review": review}), tmp_path / "report")
    (_, index) = calls(built.page.parent / "data" / "index.js")
    assert index["dimensions"][-1] == index["review"] == "Blind review"
    assert [model["name"] for model in index["models"]] == ["Baseline", "other"]
    (_, _, records) = calls(built.page.parent / "data" / "examples-0.js")
    record = records[-1]
    assert (built.page.parent / "images" / record["images"][0]).is_file()
    assert record["reference_text"] == "1) All."
    (judged,) = record["responses"][0]["verdicts"]
    assert judged["scores"] == [2.0] * len(MEASURES)
    assert judged["rationale"]["text"].startswith("<script>alert(1)</script>\\u001b")
    assert record["responses"][1]["error"] == "out of memory"
    assert record["pairs"][0]["rationale_ab"] == "Both fail."


def test_further_responses_stand_behind_the_first(results: Path, workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eva_results" / "Spatial" / "Baseline"
    shutil.copytree(results / "Spatial" / "Baseline", folder)
    first = (folder / "predictions.jsonl").read_text().splitlines()
    again = [json.dumps({**json.loads(line), "repeat": 1, "text": "later"}) for line in first]
    (folder / "predictions.jsonl").write_text("\n".join([*first, *again]))
    rescore(folder, data_of(workspace), LEAP_SCORER)
    built = build(sources(tmp_path / "eva_results", workspace, "Baseline"), tmp_path / "report")
    (_, _, records) = calls(built.page.parent / "data" / "examples-0.js")
    (response,) = records[0]["responses"]
    assert response["repeats"] == [{"text": "later", "length": 5}]
    assert response["further_scores"]["pass@2"] == 0
    assert response["plan"] == [["pick", "99", None]]


def test_a_control_is_of_the_model_with_its_weights() -> None:
    def manifest(control: str, weights: str) -> dict[str, Any]:
        return {"settings": {"image_control": control}, "model": {"weights": weights}}

    models = {"a": manifest("none", "1"), "a_b": manifest("none", "1"), "a_b_swapped": manifest("swapped", "1")}
    models["c"], models["c_blank"] = manifest("none", "2"), manifest("blank", "3")
    assert controls(models) == {"a_b_swapped": "a_b"}


# Whole or not at all


def test_a_failure_leaves_the_report_of_before(
    report: Path, results: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "report"
    shutil.copytree(report, output)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_page, "_write_script", full)
    with pytest.raises(OSError, match="No space"):
        build(sources(results, workspace), output)
    assert contents(output) == contents(report)
    assert list(tmp_path.iterdir()) == [output]


def test_what_a_killed_build_left_is_cleared_and_a_living_one_is_not_disturbed(
    results: Path, workspace: Path, tmp_path: Path
) -> None:
    left = tmp_path / ".report.new" / "images"
    left.mkdir(parents=True)
    (left / "half.webp").write_bytes(b"RI")
    with FolderLock(left.parent), pytest.raises(LeapError, match="another process writes here"):
        build(sources(results, workspace), tmp_path / "report")
    assert (left / "half.webp").is_file()
    page = build(sources(results, workspace), tmp_path / "report").page
    assert list(tmp_path.iterdir()) == [page.parent]
    assert not (page.parent / "images" / "half.webp").exists()


def test_a_folder_of_something_else_is_not_replaced(results: Path, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(LeapError, match="other files than a report's"):
        build(sources(results, workspace), tmp_path)
    assert (tmp_path / "thesis.tex").is_file()


def test_the_script_says_where_the_page_is(results: Path, workspace: Path, tmp_path: Path) -> None:
    arguments = ("--results_dir", str(results), "--output_dir", str(tmp_path / "report"), "--models", "checkpoint-5")
    done = run_script("scripts/evaluation/build_report.py", *arguments, root=workspace)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'report' / 'index.html'}: 1 models, 12 examples" in done.stdout
    assert any((tmp_path / "report" / "figures").iterdir())
    done = run_script("scripts/evaluation/build_report.py", "--results_dir", str(results), "--models", "other")
    assert done.returncode == 2
    assert "no results of other; there are: Baseline, checkpoint-5" in done.stderr
