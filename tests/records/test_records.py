"""Files that survive: errors that name file and line, torn lines, atomic replacing."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from leap.errors import LeapError
from leap.evaluation.predictions import read_predictions, write_predictions
from leap.records.benchmark import Prediction
from leap.records.files import read_text, write_atomic
from leap.records.json_files import (
    JsonlAppender,
    jsonl_line,
    object_if_there,
    read_json,
    read_jsonl,
    read_object,
    read_store,
    whole_characters,
    write_json,
)
from leap.records.training import TrainingSample

GOOD = {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}], "target": {"steps": "1) Go."}}


def rows_of(path: Path, *lines: str) -> list[TrainingSample]:
    path.write_text("\n".join(lines))
    return [row for _, row in read_jsonl(path, TrainingSample)]


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
        file.append(Prediction(task="t", example="2", error="no"), sync=False)
        file.sync()
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


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (DEEP.encode(), "nested deeper than 100 levels"),
        (b'{"a": ' + b"[" * 150 + b"]" * 150 + b"}", "nested deeper than 100 levels"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "a number of 5001 digits"),
        (b'{"a": 1' + b"0" * 400 + b"}", "a number of 401 digits"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"", ":1: not valid JSON"),
    ],
    ids=["deep", "deeper-than-ours", "longer-than-python-reads", "no-float-holds-it", "not-utf8", "empty"],
)
def test_json_that_nothing_of_ours_holds_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(LeapError) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_json_of_tokenizers_and_of_other_editors_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text('\ufeff{"model_max_length": 1000000000000000019884624838656}', encoding="utf-8")
    assert read_json(path) == {"model_max_length": 1000000000000000019884624838656}


class Shape(BaseModel):
    examples: int = 0


def test_an_object_is_returned_as_it_stands_and_its_shape_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert object_if_there(path, Shape) == {}
    path.write_text('{"examples": 3, "more": [1]}')
    assert read_object(path, Shape) == {"examples": 3, "more": [1]}
    path.write_text('{"examples": {}}')
    with pytest.raises(LeapError, match=r"manifest\.json: examples: Input should be a valid integer"):
        object_if_there(path, Shape)


def test_a_named_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    os.mkfifo(path)

    def appended() -> None:
        with JsonlAppender(path):
            pass

    for read in (read_json, read_text, object_if_there, lambda path: list(read_jsonl(path, Prediction))):
        with pytest.raises(LeapError, match=r"predictions\.jsonl: a named pipe \(FIFO\) lies where a file is expected"):
            read(path)
    with pytest.raises(LeapError, match="named pipe"):
        appended()


def test_a_name_that_is_not_utf8_goes_through_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"path": name})
    assert (tmp_path / "a.json").read_bytes().isascii()
    assert read_json(tmp_path / "a.json") == {"path": name}


def test_a_last_record_that_is_too_deep_is_no_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": ' + DEEP + "}")
    with JsonlAppender(path):
        pass
    assert path.read_text() == '{"a": ' + DEEP + "}\n"


# Stores: what LEAP appends to and reads back

ODD = [
    b'{"task": "t", "example": "9", "text": 5}',
    b'{"task": "t", "example": "9", "more": 1}',
    b'{"task": "t", "example": "9", "prompt_tokens": 1' + b"0" * 5000 + b"}",
    b'{"task": ' + DEEP.encode() + b"}",
    b'{"task": "t", "exam\x00',
    b"\xff\xfe",
    b"[1]",
    b"null",
    b"NaN",
    b"\x00" * 9,
]


@pytest.mark.parametrize("first", [True, False])
def test_no_single_record_ends_the_reading_of_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: bool
) -> None:
    path = tmp_path / "predictions.jsonl"
    good = [Prediction(task="t", example=str(number), text="a\u2028b\r\0") for number in (1, 2)]
    for odd in ODD:
        lines = [odd, *map(jsonl_line, good)] if first else [jsonl_line(good[0]), odd + b"\r", jsonl_line(good[1])]
        path.write_bytes(b"".join(line.rstrip(b"\n") + b"\n" for line in lines))
        assert read_store(path, Prediction) == good
        (warning,) = capsys.readouterr().err.splitlines()
        assert f"{path}: 1 unreadable records are passed over (line {1 if first else 2}: " in warning
    assert read_store(tmp_path / "none.jsonl", Prediction) == []


def test_halves_of_surrogate_pairs_are_no_end_of_a_store(tmp_path: Path) -> None:
    """Python's own json writes them, as other programs do that use it; no strict reader takes them."""
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"task": "t", "example": "1", "text": "a\\ud800b \\ud83d\\ude00"}\n')
    (record,) = read_store(path, Prediction)
    assert record.text == "a\ufffdb \U0001f600"
    with JsonlAppender(path) as file:
        file.append(Prediction(task="t", example="2", text="c\udcff"))
    assert [found.text for found in read_store(path, Prediction)] == [record.text, "c\ufffd"]


@given(st.text(st.characters() | st.characters(categories=["Cs"])))
def test_what_is_appended_can_be_read_back(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        with JsonlAppender(path) as file:
            file.append(Prediction(task="t", example="1", text=text))
        (record,) = read_store(path, Prediction)
    assert record.text == whole_characters(text)


@pytest.mark.parametrize("count", [-1, -(10**30), 10**13, 10**400, 1.5, True, "12", None, [3], float("nan")])
def test_a_count_of_tokens_that_cannot_be_is_none(count: Any) -> None:
    assert Prediction.model_validate({"task": "t", "example": "1", "prompt_tokens": count}).prompt_tokens is None


def test_a_line_of_predictions_that_cannot_be_read_is_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    good = Prediction(task="t", example="1", text="a")
    path.write_bytes(ODD[0] + b"\n" + jsonl_line(good))
    write_predictions(path, read_predictions(path).values())
    assert path.read_bytes() == jsonl_line(good)
    assert (tmp_path / "predictions.unreadable.jsonl").read_bytes() == ODD[0] + b"\n"
    path.write_bytes(jsonl_line(good) + ODD[1] + b"\n")
    write_predictions(path, [good])
    assert (tmp_path / "predictions.unreadable.jsonl").read_bytes() == ODD[0] + b"\n" + ODD[1] + b"\n"
    write_predictions(path, [good, good])
    assert path.read_bytes() == jsonl_line(good) * 2
