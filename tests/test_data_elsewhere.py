"""Training and evaluation on data at addresses: what they give is what they give on the same files of this machine."""

import errno
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_RECIPE, run_script
from fsspec.implementations.memory import MemoryFileSystem
from test_remote import cached, store  # noqa: F401  (a fixture)

from leap.records import remote
from leap.records.remote import cache_folder

FINETUNE, EVALUATE = "scripts/training/run-finetuning.py", "scripts/evaluation/run_vlm_evaluation.py"
STEPS = (
    f"--recipe {TINY_RECIPE} --max_steps 2 --save_steps 1 --warmup_steps 0 --logging_steps 1 --learning_rate 1e-3 "
    "--image_tokens_min 4 --image_tokens_max 9 --per_device_train_batch_size 2"
).split()
ASK = "--checkpoint models/tiny --image_tokens_min 4 --image_tokens_max 9 --max_new_tokens 3 --device cpu".split()


@pytest.fixture
def elsewhere(workspace: Path, tmp_path: Path, store: MemoryFileSystem) -> Path:  # noqa: F811
    """A workspace with the model alone; its data are in the store."""
    root = tmp_path / "empty"
    root.mkdir()
    (root / "models").symlink_to(workspace / "models")
    store.put(f"{workspace / 'data'}/", "/lab/data", recursive=True)
    store.put(f"{workspace / 'dataset'}/", "/lab/dataset", recursive=True)
    return root


def losses(text: str) -> list[str]:
    return [line.split("loss ")[1].split()[0] for line in text.splitlines() if line.startswith("step ")]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_training(
    workspace: Path,
    elsewhere: Path,
    store: MemoryFileSystem,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dry run fetches a few images to know how long all take; the run itself learns what it learns from a disk."""
    here = run_script(FINETUNE, *STEPS, "--output_dir", "output/here", root=workspace)
    places = "--train_file memory://lab/data/train_demo.jsonl --image_root memory://lab/data --output_dir output/there"
    options = [*STEPS, *places.split(), "--upload", "memory://lab/runs"]
    monkeypatch.setattr(remote, "_FEW", 3)
    planned = run_script(FINETUNE, *options, "--dry_run", root=elsewhere)
    assert planned.returncode == 0, planned.stderr
    assert re.search(
        r"^images      \d+ files of memory://lab/data/images\S* to fetch, .* of the first 3\.", planned.stdout
    )
    assert len(cached()) == 4
    there = run_script(FINETUNE, *options, root=elsewhere)
    assert there.returncode == 0, there.stderr
    assert losses(there.stderr) == losses(here.stderr) != []
    assert "to fetch" in there.stderr

    sent = {name: store.cat_file(name) for name in store.find("/lab/runs/there")}
    kept = files(elsewhere / "output" / "there")
    assert sent == {f"/lab/runs/there/{name}": content for name, content in kept.items() if name.startswith("check")}
    markers = [name for name in store.store if name.endswith("checkpoint-2/leap_run.json")]
    assert [*store.store].index(markers[0]) == max([*store.store].index(name) for name in sent)

    for image in cache_folder().glob("memory/lab/data/images/*"):  # another machine has checked newer ones meanwhile
        image.write_bytes(b"older")
    again = run_script(FINETUNE, *options, "--output_dir", "output/again", root=elsewhere)
    assert again.returncode == 0, again.stderr
    assert losses(again.stderr) == losses(here.stderr)


def test_what_was_not_sent_is_sent_by_the_same_command(
    elsewhere: Path,
    store: MemoryFileSystem,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = [*STEPS, "--train_file", "memory://lab/data/train_demo.jsonl", "--upload", "memory://lab/runs"]
    put_file = MemoryFileSystem.put_file

    def refused(self: Any, lpath: str, rpath: str, *arguments: Any, **values: Any) -> None:
        raise PermissionError("AccessDenied")
        put_file(self, lpath, rpath, *arguments, **values)

    monkeypatch.setattr(MemoryFileSystem, "put_file", refused)
    failed = run_script(FINETUNE, *options, root=elsewhere)
    assert failed.returncode == 1
    assert "error: 2 not sent to memory://lab/runs, such as " in failed.stderr.splitlines()[-1]
    assert (elsewhere / "output" / "checkpoint-2").is_dir()
    assert not store.exists("/lab/runs/output/checkpoint-2/leap_run.json")
    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    again = run_script(FINETUNE, *options, "--save_total_limit", "1", root=elsewhere)
    assert again.returncode == 0, again.stderr
    assert "this run is finished" in again.stdout
    assert [path.name for path in (elsewhere / "output").glob("checkpoint-*")] == ["checkpoint-2"]
    assert store.exists("/lab/runs/output/checkpoint-1/leap_run.json")
    assert store.exists("/lab/runs/output/checkpoint-2/leap_run.json")
    place = "/lab/runs/output/checkpoint-2/leap_run.json"
    store.pipe_file(place, json.dumps({**json.loads(store.cat_file(place)), "commit": "another"}).encode())
    earlier = run_script(FINETUNE, *options, root=elsewhere)
    assert earlier.returncode == 1
    assert "output: step 2 of an earlier start lies there, which differs in commit; remove" in earlier.stderr
    other = run_script(FINETUNE, *options, "--learning_rate", "2e-3", "--output_dir", "other/output", root=elsewhere)
    assert other.returncode == 1
    assert "memory://lab/runs/output: it belongs to another run: learning_rate" in other.stderr


def test_what_failed_once_is_sent_again_by_the_same_start(
    elsewhere: Path,
    store: MemoryFileSystem,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_file, failures = MemoryFileSystem.put_file, [OSError(errno.EIO, "once"), OSError(errno.EIO, "twice")]

    def refused(self: Any, *arguments: Any, **values: Any) -> None:
        if failures:
            raise failures.pop()
        put_file(self, *arguments, **values)

    monkeypatch.setattr(MemoryFileSystem, "put_file", refused)
    options = [*STEPS, "--train_file", "memory://lab/data/train_demo.jsonl", "--upload", "memory://lab/runs"]
    done = run_script(FINETUNE, *options, "--save_total_limit", "1", root=elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not sent: ") == 2
    assert [path.name for path in (elsewhere / "output").glob("checkpoint-*")] == ["checkpoint-2"]
    for step in (1, 2):
        assert store.exists(f"/lab/runs/output/checkpoint-{step}/leap_run.json")


@pytest.mark.parametrize("error", [KeyError("a way of its own"), OSError(errno.EIO, "the store's words")])
def test_an_upload_that_fails_is_no_success(
    error: Exception,
    elsewhere: Path,
    store: MemoryFileSystem,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(MemoryFileSystem, "put_file", fails)
    options = [*STEPS, "--train_file", "memory://lab/data/train_demo.jsonl", "--upload", "memory://lab/runs"]
    if isinstance(error, KeyError):
        with pytest.raises(KeyError, match="a way of its own"):
            run_script(FINETUNE, *options, root=elsewhere)
    else:
        done = run_script(FINETUNE, *options, "--save_total_limit", "1", root=elsewhere)
        assert done.returncode == 1
        assert "error: 2 not sent to memory://lab/runs" in done.stderr.splitlines()[-1]
        assert "the store's words" in done.stderr.splitlines()[-1]
    kept = sorted(path.name for path in (elsewhere / "output").glob("checkpoint-*"))
    assert kept == ["checkpoint-1", "checkpoint-2"], "what waits to be sent stays"


def test_a_signal_does_not_wait_for_what_is_being_sent(
    workspace: Path,
    store: MemoryFileSystem,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()

    def slow(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        ended.wait()
        raise RuntimeError("it ends the thread, as the end of the process would")

    monkeypatch.setattr(MemoryFileSystem, "put_file", slow)
    options = [*STEPS, "--max_steps", "40", "--output_dir", "output/slow", "--upload", "memory://lab/runs"]
    try:
        stopped = run_script(FINETUNE, *options, root=workspace)
    finally:
        ended.set()
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "checkpoints: left for the next start, which sends them to memory://lab/runs" in stopped.stderr


def test_evaluation(workspace: Path, elsewhere: Path, store: MemoryFileSystem) -> None:  # noqa: F811
    (name,) = (workspace / "dataset").iterdir()
    ask = [*ASK, "--dimension", "M&T", "Spatial"]
    here = run_script(EVALUATE, *ask, "--output_dir", "here", root=workspace)
    places = ["--data_path", f"memory://lab/dataset/{name.name}", "--upload", "memory://lab/results"]
    there = run_script(EVALUATE, *ask, *places, root=elsewhere)
    assert (there.returncode, here.returncode) == (0, 0), there.stderr
    for dimension in ("M&T", "Spatial"):
        one, other = workspace / "here" / dimension / "tiny", elsewhere / "eva_results" / dimension / "tiny"
        for file in ("predictions.jsonl", "final_score.json"):
            assert (one / file).read_bytes() == (other / file).read_bytes()
        manifest = json.loads((other / "manifest.json").read_text())
        assert manifest["data"]["path"] == places[1]
        sent = {name: store.cat_file(name) for name in store.find(f"/lab/results/{dimension}")}
        assert sent == {f"/lab/results/{dimension}/tiny/{name}": content for name, content in files(other).items()}
    assert {Path(name).name for name in cached() if "/Complex/" in name} == {"operation_sequence.json"}


def test_what_is_not_there_is_named(elsewhere: Path) -> None:
    for option, place in (("--train_file", "memory://lab/none.jsonl"), ("--image_root", "memory://none/images")):
        options = [*STEPS, "--train_file", "memory://lab/data/train_demo.jsonl", option, place]
        done = run_script(FINETUNE, *options, root=elsewhere)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"error: {place}: there is no such" in done.stderr
    done = run_script(EVALUATE, *ASK, "--data_path", "memory://none", root=elsewhere)
    assert done.returncode == 1
    assert "memory://none: there is no such file, folder or bucket" in done.stderr
    done = run_script(FINETUNE, *STEPS, "--output_dir", "memory://lab/output", root=elsewhere)
    assert done.returncode == 2
