"""An exported checkpoint is a model of its own: it answers as the checkpoint did, and tells where it comes from."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, run_script
from safetensors.torch import load_file
from servers.hub import HubServer
from servers.hub_store import Fault, Seen, Stored
from test_families import one_thread
from test_recipes import LORA, questions, train

from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.inference.hf import HfEngine
from leap.inference.protocol import Decoding
from leap.models.checkpoints import MARKER, adapter_base
from leap.models.export import export_model, push_model

EXPORT = "scripts/training/export_model.py"
__all__ = ["one_thread"]  # a fixture that every test here uses


@pytest.fixture(scope="module")
def adapter(workspace: Path) -> Path:
    """Trained hard enough to change answers."""
    return train(workspace, "to_export", learning_rate=0.05, max_steps=3, save_steps=3, **LORA)


def responses(workspace: Path, folder: Path) -> list[str | None]:
    requests = [request for request, _ in questions(workspace)[:4]]
    engine = HfEngine(folder, ImageSize(4, 9), base=adapter_base(folder, workspace), workers=0)
    found = {answer.key: answer.text for answer in engine.responses(requests, Decoding(max_new_tokens=12))}
    return [found[request.key] for request in requests]


def test_a_merged_adapter_answers_as_before(workspace: Path, model: Path, adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    done = run_script(
        EXPORT, "--checkpoint", str(adapter), "--output", str(output), "--dtype", "float32", root=workspace
    )
    assert done.returncode == 0, done.stderr
    assert load_file(output / "model.safetensors").keys() == load_file(model / "model.safetensors").keys()
    unmerged = responses(workspace, adapter)
    assert responses(workspace, output) == unmerged != responses(workspace, model)
    assert all(unmerged)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_cast_and_the_card_shows_the_origin(
    workspace: Path, adapter: Path, tmp_path: Path, dtype: str
) -> None:
    output = tmp_path / "models" / "leap-small"
    done = run_script(EXPORT, "--checkpoint", str(adapter), "--output", str(output), "--dtype", dtype, root=workspace)
    assert done.returncode == 0, done.stderr
    assert {weight.dtype for weight in load_file(output / "model.safetensors").values()} == {getattr(torch, dtype)}
    assert json.loads((output / "config.json").read_text())["dtype"] == dtype
    for name in ("generation_config.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"):
        assert (output / name).is_file()
    run = json.loads((adapter / MARKER).read_text())
    card = (output / "README.md").read_text()
    for message in (run["data"], run["base_model"], "base model: tiny", "lora_r: 4", "step: 3", "LEAP's commit: "):
        assert message in card
    texts = [path.read_text() for path in output.iterdir() if path.suffix != ".safetensors"]
    assert not any(str(place) in text for text in texts for place in (workspace, tmp_path, REPOSITORY, Path.home()))
    assert [path.name for path in output.parent.iterdir()] == ["leap-small"]


def test_a_whole_model_is_exported_too(workspace: Path, model: Path, tmp_path: Path) -> None:
    done = run_script(
        EXPORT, *f"--checkpoint {model} --output {tmp_path / 'whole'} --dtype float32".split(), root=workspace
    )
    assert done.returncode == 0, done.stderr
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "whole"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "LEAP did not train it" in (tmp_path / "whole" / "README.md").read_text()
    assert "serve:    vllm serve " in done.stdout


def test_what_is_exported_is_for_others_too(workspace: Path, model: Path, tmp_path: Path) -> None:
    """As far as the umask lets them, and the demo's own model as well."""
    before = os.umask(0o027)
    try:
        export_model(model, tmp_path / "exported", None, "float32", "a card")
    finally:
        os.umask(before)
    folder = tmp_path / "exported"
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
    assert len({path.stat().st_mode for path in model.iterdir()}) == 1


def test_nothing_is_overwritten_and_nothing_half_written(workspace: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    refused = run_script(EXPORT, *f"--checkpoint {adapter} --output {tmp_path / 'kept'}".split(), root=workspace)
    assert refused.returncode == 1
    assert "it exists already" in refused.stderr
    broken = Path(shutil.copytree(adapter, tmp_path / "broken"))
    (broken / "tokenizer.json").write_text("{")
    failed = run_script(EXPORT, *f"--checkpoint {broken} --output {tmp_path / 'new'}".split(), root=workspace)
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "kept"]


def test_the_loser_of_two_exports_leaves_the_winners_model(
    workspace: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one's model comes into being while this one writes its own."""
    output, sync = tmp_path / "exported", os.sync

    def meanwhile() -> None:
        output.mkdir()
        (output / "config.json").write_text("the winner's")
        sync()

    monkeypatch.setattr(os, "sync", meanwhile)
    done = run_script(EXPORT, "--checkpoint", str(model), "--output", str(output), root=workspace)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"{output}: it was made meanwhile" in line
    assert (output / "config.json").read_text() == "the winner's"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("size", [0, 100, 1 << 20])
def test_an_export_without_room_is_one_line_and_leaves_nothing(
    workspace: Path, model: Path, tmp_path: Path, size: int
) -> None:
    """A limit on the size of files stands in for a full disk: it stops the settings, the tokenizer or the weights."""
    output = tmp_path / "exported"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        done = run_script(EXPORT, "--checkpoint", str(model), "--output", str(output), root=workspace)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {tmp_path}")
    assert line.endswith("File too large")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--private", "goes with --push_to_hub"),
        ("--push_to_hub a/b/c", "OWNER/NAME is needed"),
        ("--base_model_path models/tiny", "is no LoRA adapter"),
    ],
)
def test_flags_without_a_meaning_are_refused(workspace: Path, tmp_path: Path, flags: str, words: str) -> None:
    line = f"--checkpoint models/tiny --output {tmp_path / 'x'} {flags}"
    refused = run_script(EXPORT, *line.split(), root=workspace)
    assert refused.returncode == 2
    assert words in refused.stderr


def push(
    workspace: Path, model: Path, output: Path, address: str, xet: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LEAP_ROOT": str(workspace), "HF_ENDPOINT": address, "HF_TOKEN": "hf_test"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": str(int(not xet))}
    flags = f"--checkpoint {model} --output {output} --push_to_hub someone/leap-test --private".split()
    command = [sys.executable, str(REPOSITORY / EXPORT), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_a_push_sends_every_file(workspace: Path, model: Path, tmp_path: Path) -> None:
    with HubServer([Stored("someone/leap-test", "model", {}, private=True)]) as hub:
        done = push(workspace, model, tmp_path / "pushed", hub.url)
    assert done.returncode == 0, done.stderr
    assert "uploaded: " in done.stdout
    assert b"private" in hub.created  # a key or a value, by the library's release
    assert hub.received == {path.name: path.read_bytes() for path in (tmp_path / "pushed").iterdir()}


@pytest.mark.slow
def test_a_push_without_xets_storage_goes_by_http(workspace: Path, model: Path, tmp_path: Path) -> None:
    """As behind a firewall that does not let it through; this hub has none."""
    pytest.importorskip("hf_xet")
    with HubServer([Stored("someone/leap-test", "model", {}, private=True)]) as hub:
        done = push(workspace, model, tmp_path / "pushed", hub.url, xet=True)
    assert done.returncode == 0, done.stderr
    assert "uploading once more, without Xet's storage" in done.stderr
    assert hub.received == {path.name: path.read_bytes() for path in (tmp_path / "pushed").iterdir()}


@pytest.mark.parametrize("status", [401, 403, 413])
def test_what_the_hub_refuses_is_not_sent_again_without_xet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    pytest.importorskip("hf_xet")
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name, value in {"HF_HUB_DISABLE_XET": False, "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    refuse = Fault("refused", status)
    with HubServer(
        [Stored("someone/small", "model", {})], lambda seen: refuse if seen.what == "commit" else None
    ) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        with pytest.raises(LeapError, match=r"No file is committed there, though a new repository may stand empty"):
            push_model(folder, "someone/small", private=False)
    assert [seen.what for seen in hub.seen] == ["commit"]
    assert "uploading once more" not in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_push_goes_on_and_changes_nothing_before(workspace: Path, model: Path, tmp_path: Path) -> None:
    """The second of the large files is refused: no commit; the same command then sends that one only."""
    refuses = [True]
    folder = tmp_path / "pushed"

    def plan(seen: Seen) -> Fault | None:
        tokenizer = (
            hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest() if seen.what == "upload" else ""
        )
        return Fault("403", 403) if refuses[0] and seen.path == tokenizer else None

    with HubServer([Stored("someone/leap-test", "model", {}, private=True, lfs_from=20_000)], plan) as hub:
        failed = push(workspace, model, folder, hub.url)
        assert failed.returncode == 1
        assert "No file is committed there" in failed.stderr
        assert "the same command goes on" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert not hub.received
        sent = set(hub.large)
        assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in sent
        refuses[0] = False
        hub.reset(plan)
        done = push(workspace, model, folder, hub.url)
        uploads = {seen.path for seen in hub.seen if seen.what == "upload"}
    assert done.returncode == 0, done.stderr
    assert uploads
    assert not uploads & sent
    assert hub.received == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_nothing_private_is_sent_to_a_public_repository(workspace: Path, model: Path, tmp_path: Path) -> None:
    with HubServer([Stored("someone/leap-test", "model", {})]) as hub:
        done = push(workspace, model, tmp_path / "pushed", hub.url)
    assert done.returncode == 1
    assert "exists and is public; nothing was sent" in done.stderr
    assert not hub.received


@pytest.mark.slow
def test_a_push_that_fails_says_how_to_send_it_later(workspace: Path, model: Path, tmp_path: Path) -> None:
    done = push(workspace, model, tmp_path / "kept", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "hf upload someone/leap-test" in done.stderr.splitlines()[-1]
    assert (tmp_path / "kept" / "model.safetensors").is_file()
