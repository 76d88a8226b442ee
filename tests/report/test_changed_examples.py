"""Two models example by example: which kind became which, and where only one is right."""

import json
from pathlib import Path

import pytest
from conftest import run_script
from test_summary import write_results

from leap.errors import LeapError
from leap.evaluation.diagnoses import DIAGNOSES, read_diagnoses
from leap.report.changed_examples import kind_changes, read_changes, right_only
from leap.vlabench.diagnosis import Diagnosis, Kind

KINDS_OF: dict[str, list[Kind]] = {
    "A": ["correct", "correct", "wrong object", "correct"],
    "B": ["wrong object", "correct", "correct", "loop"],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for model, kinds in KINDS_OF.items():
        write_results(tmp_path, model, [40.0, 60.0], names=("Spatial",))
        found = [
            Diagnosis(task="task", example=str(number), kind=kind, ids_as_text=number == 3 and model == "B")
            for number, kind in enumerate(kinds)
        ]
        lines = "".join(f"{one.model_dump_json()}\n" for one in found)
        (tmp_path / "Spatial" / model / DIAGNOSES).write_text(lines)
    return tmp_path


def test_transitions_go_from_the_baselines_kind_to_the_models(results: Path) -> None:
    changes = read_changes(results, "A", "B")
    table = kind_changes(changes)
    assert table.index.tolist() == ["correct", "loop", "wrong object"]
    assert table.columns.tolist() == ["correct", "wrong object"]
    assert table.loc["wrong object", "correct"] == table.loc["correct", "wrong object"] == 1
    assert table.to_numpy().sum() == 4
    assert right_only(changes)["example"].tolist() == ["0", "3"]
    assert right_only(changes, "baseline", "model")["example"].tolist() == ["2"]


def test_the_script_lists_what_only_one_is_right_on(results: Path) -> None:
    done = run_script("scripts/evaluation/compare_models.py", "A", "B", "--results_dir", str(results))
    assert done.returncode == 0, done.stderr
    assert "2 examples are right only with the model, 1 only with the baseline" in done.stdout
    assert "Spatial/task/3: correct, was loop (ids as text)" in done.stdout
    kept = json.loads((results / "comparisons" / "A_vs_B.json").read_text())
    assert [row["baseline"] for row in kept["right_only_model"]] == ["wrong object", "loop"]
    assert [row["example"] for row in kept["right_only_baseline"]] == ["2"]
    assert "| correct | 1 | 1 |" in (results / "comparisons" / "A_vs_B_kinds.md").read_text()


def test_results_without_diagnoses_say_so(results: Path) -> None:
    (results / "Spatial" / "B" / DIAGNOSES).unlink()
    assert read_changes(results, "A", "B").empty
    done = run_script("scripts/evaluation/compare_models.py", "A", "B", "--results_dir", str(results))
    assert "no diagnoses of both to compare (scripts/evaluation/score_predictions.py makes them)" in done.stdout


def test_a_broken_file_is_named(results: Path) -> None:
    (results / "Spatial" / "B" / DIAGNOSES).write_text('{"task": "task", "example": "1", "kind": "luck"}\n')
    with pytest.raises(LeapError, match=r"diagnosis\.jsonl:1: .*kind"):
        read_diagnoses(results / "Spatial" / "B")
