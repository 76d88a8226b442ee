"""Model folders that others made, or that broke on the way: every wrong file is one clear line, at once."""

import codecs
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from leap.data import chat_template
from leap.data.chat_encoding import ChatFormat
from leap.data.formats import SampleReader
from leap.data.formats.leap_samples import LeapSample
from leap.errors import LeapError
from leap.models.checkpoints import MARKER, read_marker
from leap.models.loading import load_model, load_processor
from leap.preparation.check.sample_check import check_lines
from leap.records.training import Message

DEEP = b"[" * 100_000 + b"]" * 100_000
CONTENTS = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "number": b"5",
    "deep": DEEP,
    "digits": b'{"a": 1' + b"0" * 5000 + b"}",
    "binary": b"\xff\xfe\x00",
    "torn": b'{"a": [1, ',
    "page": b"<html>404</html>",
}
FILES = (
    *("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json"),
    *("chat_template.jinja", "model.safetensors"),
)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A model of one's own to break."""
    return Path(shutil.copytree(model, tmp_path / "broken"))


def load(folder: Path) -> None:
    load_processor(folder)
    load_model(folder, "float32")


def refused(folder: Path) -> str:
    """The one line that names the folder."""
    with pytest.raises(LeapError) as error:
        load(folder)
    assert str(folder) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for content in CONTENTS.values():
        (folder / name).write_bytes(content)
        refused(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)  # to open one waits for ever
    assert "a named pipe (FIFO) lies where a file is expected" in refused(folder)
    (folder / name).unlink()
    (folder / name).write_bytes(whole)
    load(folder)


def twisted(value: Any) -> Iterator[Any]:
    """A JSON object with one of its values, at any depth, replaced by one of another kind."""
    for key, inner in value.items():
        for other in ([], {"a": []}, "x", -1, 10**15):
            if type(other) is not type(inner):
                yield {**value, key: other}
        if isinstance(inner, dict):
            yield from ({**value, key: changed} for changed in twisted(inner))


def test_settings_of_images_of_another_kind(folder: Path) -> None:
    """Each is refused where the model is loaded, or does not matter: then an image is read as before."""
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text())
    del settings["video_processor"]
    for changed in twisted(settings):
        path.write_text(json.dumps(changed))
        with suppress(LeapError):  # any other error ends the test
            load_processor(folder)


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("text_config", "num_hidden_layers", 10**9, "num_hidden_layers=1000000000: no model has so many"),
        ("vision_config", "depth", 10**15, "no model has so many"),
        ("text_config", "num_hidden_layers", 1, "weights are of layers that its config.json does not have"),
        (
            "text_config",
            "hidden_size",
            "x",
            "Field 'hidden_size' expected int",
        ),
    ],
)
def test_a_configuration_that_is_of_another_model(folder: Path, part: str, key: str, value: Any, words: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[part][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    assert words in refused(folder)


@pytest.mark.parametrize("name", ["chat_template.jinja", "config.json", "tokenizer.json", "processor_config.json"])
def test_a_byte_order_mark_is_refused_where_libraries_read(folder: Path, name: str) -> None:
    """In a chat template it would begin each prompt, without a word."""
    (folder / name).write_bytes(codecs.BOM_UTF8 + (folder / name).read_bytes())
    with pytest.raises(LeapError, match=f"{name}: it begins with a byte order mark"):
        load_processor(folder)


def test_pickled_weights_run_no_code(folder: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(), protocol=2))
    assert "the model cannot be loaded" in refused(folder)
    assert not (tmp_path / "ran").exists()


LOOP = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
TEMPLATES = {
    "{% for message in %}": "fails (TemplateSyntaxError",
    "{{ nothing.at.all }}": "fails (UndefinedError",
    "{{ raise_exception('no system message') }}": "fails (TemplateError: no system message)",
    "{{ ''.__class__.__mro__ }}": "fails (SecurityError",
    "{% include '/etc/passwd' %}": "fails (TypeError: no loader",
    "{{ 1 / 0 }}": "fails (ZeroDivisionError",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "fails (RecursionError",
    "hello": "leaves out what is said",
    "{{ messages[0].content[0].text }}": "leaves out what is said",
    "{{ 'a' * 2000000 }}": "writes more than 1,000,000 characters",
    "{{ 'a' * 10 ** 12 }}": "takes more than 2 GiB of memory",
    "{{ '%099999999999d' % 1 }}": "takes more than 2 GiB of memory",
    LOOP: "does not end",
    # C code, which no signal handler of Python's interrupts:
    "{% set n = 10 ** 9 %}{% set n = 7 ** n %}{{ n }}": "does not end",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_is_broken_or_hostile(folder: Path, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_SECONDS", 1)
    (folder / "chat_template.jinja").write_text(template)
    message = refused(folder)
    assert str(folder / "chat_template.jinja") in message
    assert TEMPLATES[template] in message


def test_a_template_that_is_hostile_later_ends_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_SECONDS", 1)
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "{% if 'apple' in messages|string %}" + LOOP + "{% endif %}")
    chat = ChatFormat(load_processor(folder))
    assert chat.prompt_ids([Message(role="user", content="pear")], [])
    with pytest.raises(LeapError, match=r"chat_template\.jinja: this chat template does not end"):
        chat.prompt_ids([Message(role="user", content="apple")], [])


def test_a_row_that_the_template_refuses_is_named_by_its_line(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    path.write_text(refusing + path.read_text())
    chat = ChatFormat(load_processor(folder))
    said = {"role": "user", "content": "?"}
    rows = [[said], [{"role": "system", "content": "Be brief."}, said]]
    lines = [json.dumps({"messages": row, "target": {"steps": "1) Go."}}).encode() for row in rows]
    with pytest.raises(LeapError, match=r"line 2: .*no system message"):
        check_lines(SampleReader(LeapSample), chat, list(enumerate(lines, start=1)))


@pytest.mark.parametrize(
    "content", [*CONTENTS.values(), b'{"recipe": []}', b'{"recipe": {"processes": "2"}}', b'{"step": {}}']
)
def test_a_marker_that_is_none_of_ours(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MARKER).write_bytes(content)
    with pytest.raises(LeapError) as error:
        read_marker(tmp_path)
    assert str(tmp_path / MARKER) in str(error.value)
