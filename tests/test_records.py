"""Files that survive: errors that name file and line, torn lines, atomic replacing."""

import json
from pathlib import Path

import pytest

from leap.errors import LeapError
from leap.records.benchmark import Prediction
from leap.records.files import JsonlAppender, read_json, read_jsonl, write_atomic
from leap.records.training import TrainingRow

GOOD = {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}], "target": {"steps": "1) Go."}}


def rows_of(path: Path, *lines: str) -> list[TrainingRow]:
    path.write_text("\n".join(lines))
    return [row for _, row in read_jsonl(path, TrainingRow)]


def test_rows_are_read(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path / "a.jsonl", json.dumps(GOOD), "")
    assert row.target.steps == "1) Go."


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"messages": [', ":2: the whole record"),
        (json.dumps({**GOOD, "target": {}}), ":2: target.steps: Field required"),
        (json.dumps({**GOOD, "target": {"steps": ""}}), ":2: target.steps"),
        (json.dumps({**GOOD, "messages": []}), ":2: messages"),
        (json.dumps({"target": {"steps": "x"}}), ":2: messages: Field required"),
        (
            json.dumps({**GOOD, "messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]}),
            "video",
        ),
        (json.dumps({**GOOD, "messages": [*GOOD["messages"], {"role": "assistant", "content": "a"}]}), "user's"),
        (json.dumps({**GOOD, "messages": [{"role": "robot", "content": "a"}]}), ":2: messages.0.role"),
    ],
)
def test_a_broken_row_is_named_by_file_line_and_field(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(LeapError) as error:
        rows_of(path, json.dumps(GOOD), line)
    assert str(path) in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(LeapError, match="empty"):
        rows_of(tmp_path / "a.jsonl", content)


def test_a_line_cut_short_by_a_kill_is_removed_on_reopening(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    record = Prediction(task="t", example="1", text="a")
    with JsonlAppender(path) as file:
        file.append(record)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:17])
    with JsonlAppender(path) as file:
        file.append(Prediction(task="t", example="2", error="no"))
    assert [found.example for _, found in read_jsonl(path, Prediction)] == ["1", "2"]


def test_a_failed_replacement_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_atomic(path, "old")
    with pytest.raises(TypeError):
        write_atomic(path, 5)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_broken_json_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{\n "a": }')
    with pytest.raises(LeapError, match=r"m\.json:2: not valid JSON"):
        read_json(path)
