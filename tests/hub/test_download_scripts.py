"""The download scripts: what they choose of a repository, and where they put it."""

from pathlib import Path

import pytest
from conftest import run_script
from downloading import on_disk, online
from servers.hub import HubServer
from servers.hub_store import Stored

from leap.errors import LeapError
from leap.hub.download import named, numbered
from leap.vlabench.examples import dimension_of

__all__ = ["online"]  # a fixture that every test here uses


TREE = ["README.md", "CommenSence/add/example0/a.txt", "M&T/add/example1/a.txt", "Semantic/add/example2/a.txt"]


def test_a_choice_by_name(tmp_path: Path) -> None:
    dimensions = named("dimension", dimension_of, ["CommonSense", "M&T"])
    assert dimensions(TREE) == set(TREE[1:3])
    with pytest.raises(LeapError, match=r"no dimension Spatial; it has M&T, Semantic, CommonSense"):
        named("dimension", dimension_of, ["M&T", "Spatial"])(TREE)
    with pytest.raises(LeapError, match=r"no dimension M&T; it has none, only M&T.zip, README.md"):
        named("dimension", dimension_of, ["M&T"])(["README.md", "M&T.zip"])
    steps = numbered("checkpoint-([0-9]+)/")
    paths = [f"checkpoint-{step}/model.safetensors" for step in (200, 7000, 400)]
    assert named("checkpoint", steps, ["400"])(paths) == {paths[2]}
    assert named("checkpoint", steps, ["all"])([*paths, "README.md"]) == set(paths)
    with pytest.raises(LeapError, match=r"no checkpoint 70, all; it has none, only README.md"):
        named("checkpoint", steps, ["70", "all"])(["README.md"])


@pytest.mark.parametrize(
    ("script", "flags", "folder"),
    [
        ("download_model.py", "", "models/Qwen3-VL-2B-Instruct"),
        ("download_vlabench_with_retry.py", "--dimensions mt common_sense", "dataset/vlm_evaluation_v1.0"),
        ("download_leap_data.py", "", "data"),
        ("download_leap_data.py", "--checkpoints 400", "output"),
        ("download_leap_data.py", "--love_agibot --tasks 327", "data/love_agibot"),
    ],
)
def test_the_scripts_put_each_repository_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, flags: str, folder: str
) -> None:
    content = {
        ("model", "Qwen/Qwen3-VL-2B-Instruct"): (["config.json", "model.safetensors"], 2),
        ("dataset", "VLABench/vlm_evaluation_v1.0"): ([*TREE[1:3], TREE[0], TREE[3]], 2),
        ("dataset", "EvanSirius/leap-agibot-processed"): (["train_151230.jsonl"], 1),
        ("model", "EvanSirius/leap-ckpts"): (["checkpoint-400/config.json", "checkpoint-200/config.json"], 1),
        ("dataset", "EvanSirius/LOVE-Agibot-Beta"): (["image/task_327.tar.gz", "image/task_352.tar.gz"], 1),
    }
    stores = [
        Stored(name, kind, {path: path.encode() for path in [*paths, ".gitattributes"]})
        for (kind, name), (paths, _) in content.items()
    ]
    with HubServer(stores) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        done = run_script(f"scripts/download/{script}", *flags.split(), root=tmp_path)
    assert done.returncode == 0, done.stderr
    found = on_disk(tmp_path)
    assert all(path.startswith(f"{folder}/") for path in found)
    wanted = next(paths[:number] for paths, number in content.values() if f"{folder}/{paths[0]}" in found)
    assert found == {f"{folder}/{path}": path.encode() for path in wanted}


def test_archives_are_named_or_not_fetched(tmp_path: Path) -> None:
    for flags in ("--love_agibot", "--tasks 327"):
        refused = run_script("scripts/download/download_leap_data.py", *flags.split(), root=tmp_path)
        assert refused.returncode == 2
        assert "go together" in refused.stderr
