"""Scripts take a model of the hub wherever they take a folder, and note which commit it was."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY_RECIPE, Finished, run_script
from downloading import online
from servers.hub import HubServer
from servers.hub_store import Stored
from test_families import one_thread
from test_recipes import LORA, TINY

from leap.hub import hub_models
from leap.models.checkpoints import ADAPTER, MARKER

TRAIN, EVALUATE = "scripts/training/run-finetuning.py", "scripts/evaluation/run_vlm_evaluation.py"
PLAN = "scripts/evaluation/plan_one.py"
EXPORT = "scripts/training/export_model.py"
QUICK = "--dimension spatial --num_episodes 1 --max_new_tokens 2 --device cpu --prompt leap --scorer leap".split()
BASE, CHECKPOINT = "someone/tiny", "someone/planners:lora/checkpoint-1"
__all__ = ["one_thread", "online"]  # fixtures that every test here uses


def files(folder: Path, under: str = "") -> dict[str, bytes]:
    return {f"{under}{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """One with the tiny model, and a cache of its own on this side."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer([Stored(BASE, "model", files(model))]) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def new_root(workspace: Path, root: Path) -> Path:
    """A workspace with data and without models."""
    root.mkdir()
    for name in ("data", "dataset"):
        (root / name).symlink_to(workspace / name)
    return root


def script(name: str, *flags: str, root: Path) -> Finished:
    done = run_script(name, *flags, root=root)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_an_adapter_is_trained_on_one_published_and_evaluated_elsewhere(
    workspace: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (new_root(workspace, tmp_path / name) for name in ("here", "there"))
    values = {**TINY, **LORA, "max_steps": 1, "save_steps": 1, "model_name_or_path": f"{BASE}@main"}
    flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    script(TRAIN, "--recipe", TINY_RECIPE, *flags, root=here)
    trained = here / "output" / "tiny" / "checkpoint-1"
    base = {"repository": BASE, "commit": hub.stored["model", BASE].commit, "subfolder": None}
    assert json.loads((trained / MARKER).read_text())["base_hub"] == base
    assert json.loads((trained / ADAPTER).read_text())["base_model_name_or_path"] == BASE

    published = Stored("someone/planners", "model", files(trained, "lora/checkpoint-1/"))
    hub.stored["model", published.name] = published
    script(EVALUATE, "--checkpoint", CHECKPOINT, *QUICK, root=there)
    results = there / "eva_results" / "Spatial" / "planners-lora-checkpoint-1"
    manifest = json.loads((results / "manifest.json").read_text())
    origin = {"repository": published.name, "commit": published.commit, "subfolder": "lora/checkpoint-1"}
    assert (manifest["hub"], manifest["base_hub"]) == (origin, base)

    hub.stored["model", BASE].files["config.json"] += b" "  # a newer commit is not what it was trained on
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = new_root(workspace, tmp_path / "again")
    script(EVALUATE, "--checkpoint", CHECKPOINT, *QUICK, root=again)
    output = again / "models" / "merged"
    script(EXPORT, "--checkpoint", CHECKPOINT, "--output", str(output), root=again)
    assert (output / "model.safetensors").is_file()


def test_a_run_goes_on_with_the_commit_that_it_began_with(workspace: Path, hub: HubServer, tmp_path: Path) -> None:
    root, commit = new_root(workspace, tmp_path / "root"), hub.stored["model", BASE].commit
    values = {**TINY, **LORA, "max_steps": 2, "save_steps": 1, "model_name_or_path": BASE}
    flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    script(TRAIN, "--recipe", TINY_RECIPE, *flags, root=root)
    last = root / "output" / "tiny" / "checkpoint-2"
    shutil.rmtree(last)
    hub.stored["model", BASE].files["config.json"] += b" "
    hub_models._fetch_once.cache_clear()  # as in another process
    script(TRAIN, "--recipe", TINY_RECIPE, *flags, root=root)
    assert json.loads((last / MARKER).read_text())["base_hub"]["commit"] == commit


def test_a_wrong_command_line_fetches_nothing(workspace: Path, hub: HubServer, tmp_path: Path) -> None:
    root = new_root(workspace, tmp_path / "root")
    for name, flags in (
        (EVALUATE, ["--checkpoint", BASE, "--batch_mode"]),
        (PLAN, ["--checkpoint", BASE, "--image", "none.png", "--instruction", "Wait."]),
        (EXPORT, ["--checkpoint", BASE, "--output", "x", "--private"]),
        (TRAIN, ["--recipe", TINY_RECIPE, "--model_name_or_path", BASE, "--train_file", "data/none.jsonl"]),
    ):
        assert run_script(name, *flags, root=root).returncode
    assert not hub.seen
