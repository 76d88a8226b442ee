"""Scores from stored answers: LEAP's own files and the first implementation's, official and lenient apart."""

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest
from conftest import run_script

from leap.errors import LeapError
from leap.evaluation.diagnoses import read_diagnoses
from leap.evaluation.manifest import read_manifest
from leap.evaluation.rescore import read_old_output, rescore
from leap.evaluation.score import score_predictions
from leap.records.benchmark import Prediction
from leap.vlabench.blind import blind_scores
from leap.vlabench.dimensions import find_dimension
from leap.vlabench.examples import find_examples, fingerprint
from leap.vlabench.prompts import fenced_plan
from leap.vlabench.sources import LEAP_SCORER

SCRIPT = "scripts/evaluation/score_predictions.py"


@pytest.fixture
def stored(workspace: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(the benchmark, a folder of results in the first implementation's form) for dimension Complex."""
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    first, second = find_examples(data, find_dimension("Complex"))
    plan = fenced_plan(first.skill_sequence)
    output = {
        "benchmeatinfo": {"existing_num": 2, "already_running_time": 20},
        first.task: {
            "0": {"origin_output": plan, "skill_sequence": first.skill_sequence},
            "1": {"origin_output": "", "format_error": "inference_error"},
        },
    }
    folder = tmp_path / "eva_results" / "Complex" / "old"
    folder.mkdir(parents=True)
    (folder / "output.json").write_text(json.dumps(output))
    zeros = dict.fromkeys(("skill_match_score", "entity_match_score", "skill_with_entity_match_score"), 0)
    old_scores = {first.task: {"1": {**zeros, "exact_match_score": 0, "total_score": 0}}}
    (folder / "final_score.json").write_text(json.dumps(old_scores))
    assert second.number == 1
    return data, folder


def test_an_old_inference_error_loses_its_zero(stored: tuple[Path, Path]) -> None:
    data, folder = stored
    found = rescore(folder, data, LEAP_SCORER)
    (task,) = json.loads((folder / "final_score.json").read_text()).values()
    assert {number: scores["total_score"] for number, scores in task.items()} == {"0": 80.0}
    assert (found.counts.scored, found.counts.inference_error) == (1, 1)
    assert len(found.changed) == 1
    assert (folder / "final_score.old.json").is_file()
    assert json.loads((folder / "manifest.json").read_text())["status"] == "incomplete"
    assert rescore(folder, data, LEAP_SCORER).changed == ()
    examples = find_examples(data, find_dimension("Complex"))
    assert read_manifest(folder)["blind"] == blind_scores(examples)
    assert blind_scores(examples)["pairs"] == 2
    right, failed = read_diagnoses(folder).values()
    assert (right.kind, right.total_score, right.grounded, right.unknown_ids) == ("correct", 80.0, 100.0, False)
    assert (failed.kind, failed.reason, failed.total_score) == ("not answered", "inference error", None)
    assert read_manifest(folder)["diagnosis"]["kinds"] == {"not answered": 1, "correct": 1}


def test_the_script_scores_old_files_in_any_spelling_of_the_dimension(
    stored: tuple[Path, Path], workspace: Path
) -> None:
    _, folder = stored
    moved = folder.parent.parent / "COMPLEX" / "0_shot"
    shutil.copytree(folder, moved)
    done = run_script(SCRIPT, str(folder.parent.parent), root=workspace)
    assert done.returncode == 0, done.stderr
    assert "COMPLEX/0_shot" in done.stdout
    assert "Complex/old" in done.stdout


def test_a_number_with_zeros_before_it_is_the_same_example(stored: tuple[Path, Path]) -> None:
    data, folder = stored
    example = find_examples(data, find_dimension("Complex"))[1]
    response = {"origin_output": fenced_plan(example.skill_sequence)}
    (folder / "output.json").write_text(json.dumps({example.task: {"01": response}}))
    found = rescore(folder, data, LEAP_SCORER)
    assert json.loads((folder / "final_score.json").read_text())[example.task]["1"]["total_score"] == 80.0
    assert (found.counts.scored, found.counts.missing) == (1, 1)
    (folder / "output.json").write_text(json.dumps({example.task: {"1": response, "01": response}}))
    with pytest.raises(LeapError, match=r"output\.json: .*both example 1"):
        rescore(folder, data, LEAP_SCORER)


@pytest.mark.parametrize("mode", ["official", "lenient"])
def test_answers_that_can_hold_no_plan_are_zero_and_of_their_own_kind(
    stored: tuple[Path, Path], mode: Literal["official", "lenient"]
) -> None:
    """Whatever stands in them: a filter may withhold an answer after its plan."""
    example = find_examples(stored[0], find_dimension("Complex"))[0]
    plan = fenced_plan(example.skill_sequence)
    for text, finish, kind in (
        (plan, "filtered", "filtered"),
        (plan, "refused", "refused"),
        ("", "stop", "empty"),
        (" \n", "length", "empty"),
        ("I cannot.", "stop", "format_error"),
        (None, None, "format_error"),  # of another program, which kept no text
        (plan, "stop", None),
    ):
        prediction = Prediction(task=example.task, example=str(example.number), text=text, finish=finish)
        scores, counts = score_predictions([example], {example.key: prediction}, mode=mode)
        found = {name: number for name, number in counts.to_dict().items() if number}
        found.pop("truncated", None)
        assert found == {"examples": 1, "scored": 1, **({kind: 1} if kind else {})}
        assert scores[example.task][str(example.number)]["total_score"] == (0 if kind else 80)


def test_lenient_scores_stay_apart(stored: tuple[Path, Path]) -> None:
    data, folder = stored
    example = find_examples(data, find_dimension("Complex"))[0]
    bare = {example.task: {"0": {"origin_output": f"My plan: {json.dumps(example.skill_sequence)}"}}}
    (folder / "output.json").write_text(json.dumps(bare))
    official = rescore(folder, data, LEAP_SCORER)
    before = (folder / "final_score.json").read_bytes()
    lenient = rescore(folder, data, LEAP_SCORER, "lenient")
    assert (official.total, official.counts.format_error) == (0.0, 1)
    assert (lenient.total, lenient.stored_total) == (80.0, 0.0)
    assert (folder / "final_score.json").read_bytes() == before
    assert (folder / "final_score_lenient.json").is_file()


@pytest.mark.parametrize("content", ["[]", "{", '{"task": {"0": 5}}'])
def test_a_broken_output_file_is_named(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "Complex" / "m"
    folder.mkdir(parents=True)
    (folder / "output.json").write_text(content)
    done = run_script(SCRIPT, str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.fixture
def predicted(workspace: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(a benchmark of its own, a folder with an answer to each of its two Complex examples and their manifest)."""
    data = Path(shutil.copytree(workspace / "dataset" / "vlm_evaluation_v1.0", tmp_path / "data"))
    examples = find_examples(data, find_dimension("Complex"))
    folder = tmp_path / "eva_results" / "Complex" / "m"
    folder.mkdir(parents=True)
    lines = [Prediction(task=one.task, example=str(one.number), text="no plan").model_dump_json() for one in examples]
    (folder / "predictions.jsonl").write_text("".join(f"{line}\n" for line in lines))
    made_for = {"examples": 2, "fingerprint": fingerprint(examples)}
    (folder / "manifest.json").write_text(json.dumps({"dimension": "Complex", "data": made_for}))
    return data, folder


def leave(folder: Path, responses: int) -> None:
    lines = (folder / "predictions.jsonl").read_text().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_text("".join(lines[:responses]))


@pytest.mark.parametrize("responses", [2, 1])
def test_answers_are_scored_by_the_plans_that_they_were_made_for(predicted: tuple[Path, Path], responses: int) -> None:
    data, folder = predicted
    leave(folder, responses)
    counts = rescore(folder, data, LEAP_SCORER).counts
    assert (counts.scored, counts.missing) == (responses, 2 - responses)
    before = (folder / "final_score.json").read_bytes()
    plan = find_examples(data, find_dimension("Complex"))[0].folder / "output" / "operation_sequence.json"
    plan.write_text('{"skill_sequence": [{"name": "press", "params": {}}]}')
    with pytest.raises(LeapError, match="made for other data than"):
        rescore(folder, data, LEAP_SCORER)
    assert (folder / "final_score.json").read_bytes() == before


def test_where_nobody_can_say_what_the_examples_were_nothing_is_scored(predicted: tuple[Path, Path]) -> None:
    data, folder = predicted
    last = find_examples(data, find_dimension("Complex"))[-1].folder
    shutil.copytree(last, last.with_name("example8"))
    leave(folder, 1)
    with pytest.raises(LeapError, match=r"1 of its 2 examples are answered.*finish this evaluation first"):
        rescore(folder, data, LEAP_SCORER)
    assert not (folder / "final_score.json").exists()


def test_an_answer_to_an_example_that_is_not_there_is_refused(predicted: tuple[Path, Path]) -> None:
    data, folder = predicted
    shutil.rmtree(find_examples(data, find_dimension("Complex"))[-1].folder)
    with pytest.raises(LeapError, match=r"answer to \w+/1, .*give the right --data_path"):
        rescore(folder, data, LEAP_SCORER)


def test_nothing_stored_is_said(tmp_path: Path) -> None:
    done = run_script(SCRIPT, str(tmp_path))
    assert (done.returncode, "no predictions.jsonl" in done.stderr) == (1, True)


def test_only_a_parsed_plan_can_be_scored_too(tmp_path: Path) -> None:
    path = tmp_path / "output.json"
    path.write_text(json.dumps({"t": {"3": {"skill_sequence": [{"name": "press", "params": {}}]}, "4": {}}}))
    (prediction,) = read_old_output(path).values()
    assert prediction.text == fenced_plan([{"name": "press", "params": {}}])
