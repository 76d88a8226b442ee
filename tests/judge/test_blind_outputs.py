"""Plans for a blind review: what is asked, what is kept, and that a failure is never an answer."""

import base64
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Finished, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from servers import faulty_openai as faulty
from servers.faulty_openai import FaultyServer, Seen

from leap.data.formats.stored_images import ImageFolder
from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.evaluation.settings import EvaluatedModel
from leap.inference.protocol import Decoding, Request, Response, request_hash
from leap.judge.outputs import OutputSettings, read_samples, write_outputs
from leap.judge.review_files import OUTPUT_COLUMNS, find_newest, read_outputs, read_table, write_table
from leap.records.judging import split_images

SCRIPT = "scripts/evaluation/run_vlm_output.py"
SMALL = "--image_tokens_min 4 --image_tokens_max 9 --max_new_tokens 8 --max_samples 3 --device cpu".split()
TEXT = st.text() | st.text('\r\n",\0 a1')
SEEDS = ["model_name", "sample_idx", "image_paths", "prompt_text", "model_output", "reference_steps"]


def outputs(root: Path, save: Path, *options: str) -> Finished:
    return run_script(SCRIPT, "--save_dir", str(save), *options, root=root)


@pytest.fixture
def checkpoints(model: Path, tmp_path: Path) -> Path:
    """Two checkpoints, which are the demo's model."""
    for step in (10, 2):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
        for file in model.iterdir():
            (tmp_path / "run" / f"checkpoint-{step}" / file.name).symlink_to(file)
    return tmp_path / "run"


def test_baseline_and_checkpoints_are_asked_the_same(workspace: Path, checkpoints: Path, tmp_path: Path) -> None:
    save = tmp_path / "blind"
    options = ["--baseline_model", "models/tiny", "--checkpoints_dir", str(checkpoints), *SMALL]
    done = outputs(workspace, save, *options, "--max_models", "2")
    assert done.returncode == 0, done.stderr
    table = find_newest(save, "blind10_outputs")
    assert table is not None
    assert list(read_table(table).columns)[:6] == SEEDS
    rows = read_outputs(table)
    assert [(row.model_name, row.sample_idx) for row in rows] == [
        (name, number) for name in ("Baseline", "run-checkpoint-2") for number in range(3)
    ]
    samples = [json.loads(line) for line in (workspace / "data" / "blind_10.jsonl").read_text().splitlines()]
    for row in rows:
        sample = samples[row.sample_idx]
        assert row.reference_steps == sample["target"]["steps"]
        assert row.prompt_text == sample["messages"][0]["content"][1]["text"]
        assert (workspace / row.image_paths).is_file()
        assert row.finish in ("stop", "length")
        assert row.error == ""
    sampled = [row.model_output for row in rows]
    assert sampled[:3] == sampled[3:]  # one seed, the same weights
    manifest = json.loads(table.with_suffix(".json").read_text())
    assert manifest["settings"]["decoding"] == {
        "max_new_tokens": 8,
        "min_new_tokens": 0,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 42,
    }
    assert all(len(model["weights"]) == 64 for model in manifest["models"])
    made = {model["name"]: model["inference"] for model in manifest["models"]}
    assert [(note["engine"], note["dtype"]) for notes in made.values() for note in notes] == [("hf", "float32")] * 2
    kept = table.with_suffix(".json").read_bytes()

    again = outputs(workspace, save, *options, "--max_models", "2")
    assert again.returncode == 0
    assert again.stderr == ""  # nothing was asked
    assert find_newest(save, "blind10_outputs") == table
    assert table.with_suffix(".json").read_bytes() == kept
    table.with_suffix(".json").unlink()  # as a kill just before it was written leaves it
    assert outputs(workspace, save, *options, "--max_models", "1").returncode == 0
    part = find_newest(save, "blind10_outputs")
    assert part is not None
    (message,) = json.loads(part.with_suffix(".json").read_text())["models"]
    assert message["inference"] == made["Baseline"]
    baseline = outputs(workspace, save, *options, "--max_models", "1", "--temperature", "0", "--max_samples", "1")
    assert baseline.returncode == 0
    (greedy,) = read_outputs(find_newest(save, "blind10_outputs") or save)
    assert greedy.model_output != sampled[0]


def test_a_failure_is_no_answer_and_is_asked_again(workspace: Path, tmp_path: Path) -> None:
    def refusing(seen: Seen) -> faulty.Fault | None:
        return faulty.BAD_REQUEST if seen.number == 1 else None

    save = tmp_path / "blind"
    with FaultyServer(refusing) as server:
        options = ["--engine", "openai", "--base_url", server.url, "--concurrency", "1", *SMALL[:-2]]
        done = outputs(workspace, save, *options)
        assert done.returncode == 1
        rows = read_outputs(find_newest(save, "blind10_outputs") or save)
        assert [bool(row.error) for row in rows] == [False, True, False]
        assert rows[1].model_output == ""
        assert "400" in rows[1].error
        assert server.seen[0].body["top_p"] == 0.9
        before = len(server.seen)
        assert outputs(workspace, save, *options, "--timeout", "99").returncode == 0
        assert len(server.seen) == before + 1
        table = find_newest(save, "blind10_outputs")
        assert table is not None
        assert not any(row.error for row in read_outputs(table))
        (message,) = json.loads(table.with_suffix(".json").read_text())["models"]
        assert message["answers_from_before"] == 2
        assert len({note["run"]["command"] for note in message["inference"]}) == 2  # both runs are told
        assert outputs(workspace, save, *options, "--no_resume").returncode == 0
        assert len(server.seen) == before + 4
        store = save / "answers.jsonl"
        lines = [json.loads(line) for line in store.read_text().splitlines()]
        assert all(line.pop("made") for line in lines)  # older stores have none
        store.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert outputs(workspace, save, *options, "--max_samples", "2").returncode == 0
        assert len(server.seen) == before + 4


def test_a_refusal_is_what_the_model_answered(workspace: Path, tmp_path: Path) -> None:
    save = tmp_path / "blind"
    with FaultyServer(lambda seen: [faulty.REFUSAL, faulty.FILTERED, faulty.BLANK][seen.number]) as server:
        options = ["--engine", "openai", "--base_url", server.url, "--concurrency", "1", *SMALL[:-2]]
        for _ in range(2):  # the second run asks nothing
            assert outputs(workspace, save, *options).returncode == 0
            table = find_newest(save, "blind10_outputs")
            assert table is not None
            rows = read_outputs(table)
            assert [row.model_output.strip() for row in rows] == ["I would rather not.", "Well", ""]
            assert [row.finish for row in rows] == ["refused", "filtered", "stop"]
        counts = json.loads(table.with_suffix(".json").read_text())["counts"]
    assert counts == {"answered": 3, "failed": 0, "truncated": 0, "refused": 1, "filtered": 1, "empty": 1}


def test_a_missing_image_is_reported_by_line_before_any_model_is_loaded(workspace: Path, tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": [{"type": "image", "image": "gone.png"}]}],
        "target": {"steps": "x"},
    }
    data = tmp_path / "rows.jsonl"
    data.write_text("\n" + json.dumps(row) + "\n")
    options = ["--data_file", str(data), "--baseline_model", "models/tiny", "--checkpoints_dir", str(tmp_path)]
    done = outputs(workspace, tmp_path / "blind", *options, *SMALL)
    assert done.returncode == 1
    assert f"{data}:2:" in done.stderr
    assert "gone.png" in done.stderr


def test_a_semicolon_in_an_image_path_is_none_between_two(tmp_path: Path) -> None:
    names = ["a;b.png", " c.png", "d.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    data = tmp_path / "rows.jsonl"
    parts = [[{"type": "image", "image": name} for name in shown] for shown in (names, names[2:])]
    rows = [{"messages": [{"role": "user", "content": part}], "target": {"steps": "x"}} for part in parts]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_samples(
        OutputSettings(data, tmp_path, (tmp_path,), ImageSize(4, 4), Decoding(8)), ImageFolder(tmp_path / "images")
    )
    assert split_images(first.shown_images) == names
    assert second.shown_images == "d.png"


def test_samples_of_another_form_are_asked_as_in_leaps_own(tmp_path: Path) -> None:
    """ShareGPT's in an array, with an image in its text; a sample that is none is told with its number."""
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    uri = "data:image/png;base64," + base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    part = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Now?"}]
    own = {"messages": [{"role": "user", "content": part}], "target": {"steps": "1) Go."}}
    turns = [{"from": "human", "value": "<image>Now?"}, {"from": "gpt", "value": "1) Go."}]
    files = {"own.jsonl": json.dumps(own), "theirs.json": json.dumps([{"conversations": turns, "image": uri}])}
    asked = []
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        chosen = OutputSettings(tmp_path / name, tmp_path, (tmp_path,), ImageSize(4, 4), Decoding(8))
        asked += read_samples(chosen, ImageFolder(tmp_path / "blind" / "images"))
    own_sample, theirs = asked
    assert (theirs.prompt, theirs.reference) == (own_sample.prompt, own_sample.reference) == ("Now?", "1) Go.")
    assert request_hash(theirs.request) == request_hash(own_sample.request)
    (tmp_path / "theirs.json").write_text(
        json.dumps([{"conversations": turns, "image": uri}, {"conversations": turns}])
    )
    with pytest.raises(
        LeapError, match=r"theirs\.json:2: 1 <image> mark\(s\) in the texts for 0 image\(s\); .*; mend or"
    ):
        read_samples(chosen, ImageFolder(tmp_path / "blind" / "images"))


@settings(max_examples=30)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_any_text_comes_back_from_a_table(texts: list[tuple[str, str]]) -> None:
    same = {
        "image_paths": "a.png",
        "prompt_text": "",
        "error": "",
        "finish": "",
        "prompt_tokens": "",
        "new_tokens": "7",
    }
    rows = [
        {"model_name": "a", "sample_idx": number, "model_output": answer, "reference_steps": reference, **same}
        for number, (answer, reference) in enumerate(texts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        found = read_outputs(write_table(Path(folder), "blind10_outputs", rows, OUTPUT_COLUMNS))
    assert [output.model_dump() for output in found] == rows


def test_an_equal_table_is_not_written_again(tmp_path: Path) -> None:
    row = dict.fromkeys(OUTPUT_COLUMNS, "a")
    first = write_table(tmp_path, "blind10_outputs", [row], OUTPUT_COLUMNS)
    assert write_table(tmp_path, "blind10_outputs", [row], OUTPUT_COLUMNS) == first
    assert write_table(tmp_path, "blind10_outputs", [row], OUTPUT_COLUMNS, anew=True) != first
    second = write_table(tmp_path, "blind10_outputs", [row, row], OUTPUT_COLUMNS)
    assert second != first
    assert find_newest(tmp_path, "blind10_outputs") == second
    os.utime(first)
    assert find_newest(tmp_path, "blind10_outputs") == second
    (tmp_path / "blind10_outputs_mine.csv").write_text("a note of somebody's\n")
    assert find_newest(tmp_path, "blind10_outputs") == second
    assert find_newest(tmp_path, "blind10_score") is None


@dataclass
class Echo:
    """An engine that counts what it is asked."""

    asked: int = 0

    def responses(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[Response]:
        for request in requests:
            self.asked += 1
            yield Response(request.key, text="1) Wait.", finish="stop", prompt_tokens=7, new_tokens=3)

    def describe(self) -> dict[str, Any]:
        return {"engine": "echo"}

    def close(self) -> None:
        pass


def test_a_changed_chat_template_asks_anew(workspace: Path, tmp_path: Path) -> None:
    roots = (workspace, workspace / "data")
    rows = workspace / "data" / "blind_10.jsonl"
    chosen = OutputSettings(rows, workspace, roots, ImageSize(4, 4), Decoding(8), max_samples=2)
    engine = Echo()

    def ask(files: dict[str, str]) -> int:
        """How many samples were asked now."""
        before = engine.asked
        model = EvaluatedModel("m", weights="0", files=files)
        write_outputs([model], chosen, lambda _: closing(engine), tmp_path, REPOSITORY)
        return engine.asked - before

    one, other = {"chat_template.jinja": "1"}, {"chat_template.jinja": "2"}
    assert (ask(one), ask(one), ask(other)) == (2, 0, 2)


def test_an_engines_own_flags_are_part_of_how_a_plan_is_made(tmp_path: Path) -> None:
    """Stored answers are found by what made them; without such flags as they were before there were any."""
    plain = OutputSettings(tmp_path / "rows.jsonl", tmp_path, (tmp_path,), ImageSize(4, 4), Decoding(8), "vllm")
    assert "engine_arguments" not in plain.to_dict()
    assert replace(plain, engine_arguments=("--quantization", "fp8")).to_dict() != plain.to_dict()
