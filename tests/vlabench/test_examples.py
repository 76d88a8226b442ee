"""Dimensions in any spelling, and walking the benchmark as it lies on disk."""

import json
import shutil
from pathlib import Path

import pytest

from leap.errors import LeapError, UsageError
from leap.vlabench.dimensions import DIMENSIONS, NAMES, find_dimension, find_dimensions
from leap.vlabench.examples import find_examples, fingerprint


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("m&t", "M&T"), ("CommenSence", "CommonSense"), ("commensense", "CommonSense"), ("PhysicalLaw", "PhysicsLaw"),
     ("Memory & Tasks", "M&T"), ("physics law", "PhysicsLaw"), ("Complex", "Complex")],
)  # fmt: skip
def test_any_spelling_is_understood(spelling: str, name: str) -> None:
    assert find_dimension(spelling).name == name


def test_all_and_several() -> None:
    assert find_dimensions(["all"]) == DIMENSIONS
    assert [d.name for d in find_dimensions(["complex", "M&T", "m&t"])] == ["M&T", "Complex"]
    with pytest.raises(UsageError, match="Complexity"):
        find_dimensions(["Complexity"])


@pytest.fixture
def benchmark(workspace: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workspace / "dataset" / "vlm_evaluation_v1.0", tmp_path / "benchmark"))


def test_gaps_stray_files_and_other_spellings_are_passed_over(benchmark: Path) -> None:
    complex_ = find_dimension("Complex")
    (task,) = {example.task for example in find_examples(benchmark, complex_)}
    folder = benchmark / "Complex" / task
    (folder / "example1").rename(folder / "example12")
    (folder / "notes.txt").write_text("stray")
    (folder / "example_old").mkdir()
    (benchmark / "Complex" / "empty_task").mkdir()
    (benchmark / "Complex").rename(benchmark / "complex")
    assert [example.number for example in find_examples(benchmark, complex_)] == [0, 12]
    assert [example.number for example in find_examples(benchmark, complex_, num_episodes=1)] == [0]


@pytest.mark.parametrize("twin", ["example01", "example001"])
def test_two_folders_of_one_number_are_refused(benchmark: Path, twin: str) -> None:
    """Results are kept by number: of two, one would be asked and not scored, and the table and the file disagree."""
    spatial = find_dimension("Spatial")
    first = find_examples(benchmark, spatial)[1].folder
    copied = first.with_name(twin)
    shutil.copytree(first, copied)
    for part in ({}, {"num_episodes": 1}):
        with pytest.raises(LeapError, match="are both example 1") as error:
            find_examples(benchmark, spatial, **part)
        assert first.name in str(error.value)
        assert twin in str(error.value)
    shutil.rmtree(first)
    assert [example.number for example in find_examples(benchmark, spatial)] == [0, 1]


def test_every_dimension_of_the_demo_is_found(benchmark: Path) -> None:
    for dimension in DIMENSIONS:
        for example in find_examples(benchmark, dimension):
            assert example.instruction
            assert example.skill_sequence[0]["name"]
    assert {folder.name for folder in benchmark.iterdir()} == {dimension.folder for dimension in DIMENSIONS}
    assert "CommonSense" in NAMES


@pytest.mark.parametrize("broken", ["input/input.png", "input/instruction.txt", "output/operation_sequence.json"])
def test_a_missing_file_is_named(benchmark: Path, broken: str) -> None:
    dimension = find_dimension("Spatial")
    path = find_examples(benchmark, dimension)[0].folder / broken
    path.unlink()
    with pytest.raises(LeapError, match="missing") as error:
        find_examples(benchmark, dimension)
    assert str(path) in str(error.value)
    assert "scripts/download/download_vlabench_with_retry.py" in str(error.value)


@pytest.mark.parametrize("content", ["{", "{}", '{"skill_sequence": []}', '{"skill_sequence": 3}'])
def test_a_broken_reference_plan_is_named(benchmark: Path, content: str) -> None:
    dimension = find_dimension("Spatial")
    path = find_examples(benchmark, dimension)[0].folder / "output" / "operation_sequence.json"
    path.write_text(content)
    with pytest.raises(LeapError) as error:
        find_examples(benchmark, dimension)
    assert str(path) in str(error.value)


def test_the_fingerprint_follows_the_contents(benchmark: Path) -> None:
    dimension = find_dimension("Semantic")
    before = fingerprint(find_examples(benchmark, dimension))
    path = find_examples(benchmark, dimension)[0].folder / "output" / "operation_sequence.json"
    plan = json.loads(path.read_text())
    plan["skill_sequence"][0]["params"] = {"target_entity_name": 99}
    path.write_text(json.dumps(plan))
    assert fingerprint(find_examples(benchmark, dimension)) != before


def test_no_benchmark_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(LeapError, match="download"):
        find_examples(tmp_path / "nowhere", DIMENSIONS[0])
