"""Every JSON file that LEAP reads, of every wrong kind: one clear line that names it, at once; and each file of ours is
read again as it was."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from leap.errors import LeapError
from leap.evaluation.evaluation_progress import Monitor
from leap.evaluation.manifest import read_manifest
from leap.evaluation.rescore import read_old_output, rescore
from leap.evaluation.score import read_scores
from leap.hub.notes import read_listing
from leap.models.checkpoints import adapter_base, find_checkpoints, is_resumable, read_log, read_marker
from leap.preparation.agibot.annotations import read_annotations
from leap.preparation.check.benchmark_check import check_example
from leap.records.locks import FolderLock
from leap.records.quarantine import restore
from leap.report.curves import read_loss
from leap.report.results import read_counts, unlike_settings_note
from leap.report.results import read_scores as read_all_scores
from leap.tabletop.demo_workspace import DemoSize, make_workspace
from leap.training.out_of_memory import recall
from leap.training.resume import find_resume
from leap.training.training_report import read_report
from leap.vlabench.dimensions import find_dimension
from leap.vlabench.examples import find_examples
from leap.vlabench.sources import LEAP_SCORER

DEEP = b"[" * 100_000 + b"]" * 100_000
NO_JSON_OF_OURS = {
    "empty": b"",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "deep": DEEP,
    "deep inside": b'{"a": ' + DEEP + b"}",
    "digits": b'{"a": 1' + b"0" * 5000 + b"}",
    "long number": b'{"a": 1' + b"0" * 400 + b"}",
    "binary": b"\xff\xfe\x00",
    "torn": b'{"a": [1, ',
    "page": b"<html>404</html>",
}
MANIFEST = {
    "dimension": "Spatial",
    "model": {"name": "m", "weights": "ab", "files": {"config.json": "cd"}, "endpoint": None},
    "settings": {"dtype": "float32", "decoding": {"max_new_tokens": 4}, "image_tokens": [4, 9]},
    "scorer": {"name": "leap"},
    "data": {"path": "d", "examples": 2, "fingerprint": "ef"},
    "counts": {"examples": 2, "scored": 1, "missing": 1},
    "inference": [{"time": "2026-01-01T00:00:00+00:00"}],
    "start": "2026-01-01T00:00:00+00:00",
    "end": "2026-01-01T01:00:00+00:00",
    "status": "incomplete",
    "command": "python x",
}
MARKER = {
    "recipe": {"optim": "adamw_torch", "processes": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-5},
    "step": 4,
    "resumable": True,
    "weights": "float32",
    "base_model": "ab",
    "base_files": {"config.json": "cd"},
    "data": "ef",
    "held_out": None,
    "commit": "01",
    "versions": {"torch": "2"},
}
IDENTITY = {"recipe": {}, "base_model": "ab", "data": "ef", "base_files": {}}


def _results(path: Path) -> Path:
    return path.parents[2]


def _manifest_everywhere(path: Path) -> None:
    folder = path.parent
    if not (folder / "final_score.json").exists():
        (folder / "final_score.json").write_text("{}")
    read_manifest(folder)
    read_counts(_results(path))
    unlike_settings_note(_results(path), ["m"])
    (found,) = Monitor(_results(path)).read()
    if found.problem:
        raise LeapError(found.problem)


def _scores_everywhere(path: Path) -> None:
    read_scores(path)
    read_all_scores(_results(path))


def _rescored(path: Path, data: Path) -> None:
    (path.parent / "output.json").write_text("{}")
    rescore(path.parent, data, LEAP_SCORER)


def _marker_everywhere(path: Path) -> None:
    read_marker(path.parent)
    is_resumable(path.parent)
    find_resume(path.parents[1], IDENTITY)


def _log_everywhere(path: Path) -> None:
    read_log(path.parent)
    read_loss(path.parents[1])


def _example(path: Path) -> None:
    find_examples(path.parents[4], find_dimension("Spatial"))
    for kind, reason, note in check_example(path.parents[1]):
        if kind == "plan" and not note:
            raise LeapError(reason)


STEPS = [
    {"name": "pick", "params": {"target_entity_name": 1}},
    {"name": "place", "params": {"target_container_name": 2}},
]
SCORES = dict.fromkeys(("total_score", "skill_match_score"), 12.5)
EPISODE = {
    "task_id": 327,
    "episode_id": 648642,
    "task_name": "t",
    "init_scene_text": "s",
    "label_info": {"action_config": [{"start_frame": 0, "end_frame": 9, "action_text": "Pick it.", "skill": "Pick"}]},
}
MOVED = {"format": 1, "folder": "a", "moved": []}
# Where a file lies under the test's folder, what it may hold, and who reads it.
FILES: dict[str, tuple[str, Any, Callable[[Path], Any]]] = {
    "manifest": ("r/Spatial/m/manifest.json", MANIFEST, _manifest_everywhere),
    "scores": ("r/Spatial/m/final_score.json", {"select_x": {"1": SCORES}}, _scores_everywhere),
    "old output": ("r/Spatial/m/output.json", {"t": {"1": {"origin_output": "x"}}}, read_old_output),
    "plan": ("d/Spatial/t/example0/output/operation_sequence.json", {"skill_sequence": STEPS}, _example),
    "marker": ("run/checkpoint-4/leap_run.json", MARKER, _marker_everywhere),
    "run": ("run/leap_run.json", {**MARKER, "step": None}, lambda path: find_resume(path.parent, IDENTITY)),
    "adapter": (
        "a/adapter_config.json",
        {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "base"},
        lambda path: adapter_base(path.parent, path.parents[1]),
    ),
    "log": (
        "run/checkpoint-4/trainer_state.json",
        {"log_history": [{"step": 1, "loss": 0.5, "learning_rate": 1e-5}, {"step": 2, "eval_loss": 0.25}]},
        _log_everywhere,
    ),
    "report": (
        "run/training_report.json",
        {"throughput": {"sessions": [{"steps": 1, "seconds": 2.0}]}, "environment": {"device": "cpu", "processes": 1}},
        lambda path: read_report(path.parent),
    ),
    "annotations": ("data/task_info/task_327.json", [EPISODE], lambda path: read_annotations(path.parent)),
    "restore file": ("quarantine/restore.json", MOVED, restore),
    "listing": (
        "hub/.cache/leap/listing.json",
        {"repository": "a/b", "commit": "c", "files": {"x": 1}},
        lambda path: read_listing(path.parents[2]),
    ),
    "memory plan": ("run/memory_plan.json", {}, lambda path: recall(path.parent)),
    "demo": ("demo/workspace.json", {"complete": True}, lambda path: make_workspace(path.parent, DemoSize())),
}


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path) -> None:
    """What else the readers look for."""
    inputs = tmp_path / "d" / "Spatial" / "t" / "example0" / "input"
    inputs.mkdir(parents=True)
    (inputs / "instruction.txt").write_text("Take it.")
    for name in ("input.png", "input_mask.png"):
        (inputs / name).write_bytes(b"")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "demo").mkdir()


def place(tmp_path: Path, kind: str) -> tuple[Path, Any, Callable[[Path], Any]]:
    name, good, read = FILES[kind]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, good, read


def refusal(path: Path, read: Callable[[Path], Any]) -> str:
    with pytest.raises(LeapError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_such_file_is_named(tmp_path: Path, kind: str) -> None:
    path, _, read = place(tmp_path, kind)
    for content in NO_JSON_OF_OURS.values():
        path.write_bytes(content)
        refusal(path, read)
    path.unlink()
    os.mkfifo(path)  # to open one waits for ever
    assert "named pipe (FIFO)" in refusal(path, read)


def other_kinds(value: Any) -> Iterator[Any]:
    """The value with one part of it, at any depth, replaced by one of another kind or left out."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            for other in (None, [], {}, [[]], {"": {}}, "x", "-1", -1, 0.5, 10**99, True, "2026-01-01"):
                changed = copy.copy(value)
                changed[key] = other
                yield changed
            for inner in other_kinds(value[key]):
                changed = copy.copy(value)
                changed[key] = inner
                yield changed
            less = copy.copy(value)
            del less[key]
            yield less


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_shape_is_refused_or_does_no_harm(tmp_path: Path, kind: str) -> None:
    """Any error but a LeapError ends the test."""
    path, good, read = place(tmp_path, kind)
    for changed in other_kinds(good):
        path.write_text(json.dumps(changed))
        with suppress(LeapError):
            read(path)


@pytest.mark.parametrize("kind", ["manifest", "scores", "old output", "plan", "marker", "adapter", "log", "report"])
def test_a_good_file_is_read(tmp_path: Path, kind: str) -> None:
    path, good, read = place(tmp_path, kind)
    path.write_text(json.dumps(good))
    with suppress(LeapError):  # the marker is another run's
        read(path)
    if kind == "marker":
        assert read_marker(path.parent) == MARKER
        assert find_checkpoints(path.parents[1]) == [path.parent]
    elif kind == "manifest":
        assert read_manifest(path.parent) == MANIFEST
    else:
        read(path)


def test_scores_and_manifests_of_any_shape_end_no_rescoring(tmp_path: Path) -> None:
    path = tmp_path / "r" / "Spatial" / "m" / "final_score.json"
    path.parent.mkdir(parents=True)
    data = tmp_path / "d"
    plan = data / "Spatial" / "t" / "example0" / "output" / "operation_sequence.json"
    plan.parent.mkdir()
    plan.write_text(json.dumps({"skill_sequence": STEPS}))
    for name, good in (("final_score.json", {"t": {"0": SCORES}}), ("manifest.json", MANIFEST)):
        for changed in other_kinds(good):
            (path.parent / name).write_text(json.dumps(changed))
            with suppress(LeapError):
                _rescored(path, data)
        (path.parent / name).unlink()
    _rescored(path, data)
    assert read_scores(path) == {}


def test_a_named_pipe_in_a_locks_place_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "Spatial" / "m"
    folder.mkdir(parents=True)
    os.mkfifo(folder / ".lock")
    with (
        pytest.raises(LeapError, match=r"\.lock: something else lies where a lock file is expected"),
        FolderLock(folder),
    ):
        pass
    (found,) = Monitor(tmp_path / "r").read()
    assert found.problem is not None
    assert str(folder / ".lock") in found.problem


def test_a_task_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    task = tmp_path / "d" / "Spatial" / "t"
    task.rename(task.with_name(os.fsdecode(b"t\xe9")))
    with pytest.raises(LeapError, match="no name of a task"):
        find_examples(tmp_path / "d", find_dimension("Spatial"))
