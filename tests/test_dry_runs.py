"""A dry run writes nothing into the workspace, its cache and logs included, nor into the folder that one is in."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY_RECIPE, run_script
from downloading import online
from frame_archives import tar_gz, write_archive
from servers.hub import HubServer
from servers.hub_store import Stored
from test_cli import SCRIPTS, parser_of
from test_image_archive import packed
from test_recipes import tiny_recipe

from leap.records.files import cache_in_use
from leap.tabletop.demo_workspace import MARKER
from leap.training.fine_tune import check_run

__all__ = ["online"]  # a fixture that the downloads use

SMALL = "--max_steps 2 --warmup_steps 0 --image_tokens_min 4 --image_tokens_max 9"
OURS = f"--model_name_or_path models/tiny --train_file data/train_demo.jsonl --val_file data/test_demo.jsonl {SMALL}"
GRPO = "--model_name_or_path models/tiny --max_steps 2 --save_steps 2 --warmup_steps 0 --eval_benchmark 6"
COMMANDS = {
    "scripts/training/run-finetuning.py": ["--recipe demo", f"--recipe full {OURS} --output_dir output/new"],
    "scripts/training/run-grpo.py": [
        "--recipe demo-grpo --model_name_or_path models/tiny --train_file tabletop",
        *(f"--recipe demo-{method} {GRPO}" for method in ("grpo", "rft")),
    ],
    "scripts/ablation/run-lora-finetuning.py": [f"--recipe {TINY_RECIPE} {SMALL}", f"--lora_preset light {OURS}"],
    "scripts/ablation/run-ablation-experiments.py": [
        f"--presets light,full --include_full_finetuning {OURS} --gpus none",
        f"--demo --seeds 2 {SMALL} --gpus none",
        f"--demo --model_name_or_path models/tiny {SMALL} --gpus none",
    ],
    "scripts/evaluation/run_parallel_evaluation.py": ["--baseline_model models/tiny --gpus none"],
    "scripts/utils/prepare_love_agibot.py": [""],
    "scripts/utils/unpack_images.py": [""],
    "scripts/utils/check_and_clean_images.py": ["", "--no_decode --data_dir data"],
}
DOWNLOADS = {
    "scripts/download/download_model.py": "Qwen/Qwen3-VL-2B-Instruct",
    "scripts/download/download_vlabench_with_retry.py": "--dimensions mt",
    "scripts/download/download_leap_data.py": "--data --checkpoints 400 --love_agibot --tasks all",
}


@pytest.fixture
def root(workspace: Path, tmp_path: Path) -> Path:
    """A workspace with something for every script to do, and without a cache."""
    made = tmp_path / "workspace"
    for name in ("data", "dataset"):
        shutil.copytree(workspace / name, made / name)
    shutil.copytree(workspace / "models", made / "models", copy_function=os.link)  # 18 MB
    shutil.copy(workspace / MARKER, made)
    write_archive(made / "data" / "love_agibot" / "image", 327)
    (made / "data" / "images.tar.gz").write_bytes(tar_gz(packed()))
    return made


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """(size, time of change) of all that is there, folders too: a file that came and went changes its folder."""
    found = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (status.st_size, status.st_mtime_ns) for path, status in found.items()}


def test_every_script_with_a_dry_run_is_tried_here() -> None:
    with_it = {script for script in SCRIPTS if "--dry_run" in parser_of(script)._option_string_actions}
    assert with_it == {*COMMANDS, *DOWNLOADS}


@pytest.mark.parametrize(("script", "line"), [(script, line) for script, lines in COMMANDS.items() for line in lines])
def test_a_dry_run_writes_nothing(root: Path, script: str, line: str) -> None:
    before = everything(root.parent)
    done = run_script(script, "--dry_run", *line.split(), root=root, folder=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert everything(root.parent) == before


@pytest.mark.parametrize(("script", "line"), DOWNLOADS.items())
def test_a_download_that_is_only_tried_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, line: str
) -> None:
    content = {
        ("model", "Qwen/Qwen3-VL-2B-Instruct"): "config.json",
        ("dataset", "VLABench/vlm_evaluation_v1.0"): "M&T/add/example1/a.txt",
        ("dataset", "EvanSirius/leap-agibot-processed"): "train_151230.jsonl",
        ("model", "EvanSirius/leap-ckpts"): "checkpoint-400/config.json",
        ("dataset", "EvanSirius/LOVE-Agibot-Beta"): "image/task_327.tar.gz",
    }
    with HubServer([Stored(name, kind, {path: b"x"}) for (kind, name), path in content.items()]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        before = everything(tmp_path)
        done = run_script(script, "--dry_run", *line.split(), root=tmp_path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert everything(tmp_path) == before


def test_a_demo_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    words = "--demo --dry_run --presets light --gpus none".split()
    done = run_script("scripts/ablation/run-ablation-experiments.py", *words, root=tmp_path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "to be made" in done.stdout
    assert "lora_light, full_finetuning, each 270 steps" in done.stdout
    assert not any(tmp_path.iterdir())


def test_what_an_earlier_check_found_is_read_and_left_as_it_is(root: Path) -> None:
    """Another setting needs no second look at the samples; what it finds is not kept."""
    recipe = tiny_recipe(output_dir="output/new")
    kept = check_run(recipe, root, root / ".cache")
    before = everything(root)
    with cache_in_use(root / ".cache", keep=False) as place:
        tried = check_run(recipe.model_copy(update={"model_max_length": 600}), root, place, report=False)
    assert everything(root) == before
    assert (len(kept.train) + len(kept.train.too_long)) == (len(tried.train) + len(tried.train.too_long))
    assert tried.train.report is None


def test_a_dry_run_names_no_report_that_is_not_written(root: Path) -> None:
    rows = root / "data" / "train_demo.jsonl"
    rows.write_text(rows.read_text() + "no sample\n")
    done = run_script("scripts/training/run-finetuning.py", "--recipe", "demo", "--dry_run", root=root)
    assert done.returncode == 1
    assert "train_demo.jsonl:25: " in done.stderr
    assert "listed in" not in done.stderr


def test_eval_sh_only_prints_its_command(root: Path) -> None:
    (root / "models" / "Qwen3-VL-2B-Instruct").mkdir()
    before = everything(root)
    command = ["bash", str(REPOSITORY / "eval.sh"), "qwen3_2b", "--dry_run"]
    subprocess.run(command, cwd=root, env={"LEAP_ROOT": str(root), "PATH": "/usr/bin:/bin"}, check=True)
    assert everything(root) == before


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("scripts/training/run-finetuning.py", "--recipe demo --dry_run --output_dir models/tiny/config.json/new"),
        ("scripts/ablation/run-lora-finetuning.py", f"--dry_run {OURS} --output_dir models/tiny/config.json"),
        ("scripts/utils/prepare_love_agibot.py", "--dry_run --output data/train_demo.jsonl/images"),
        ("scripts/utils/unpack_images.py", "--dry_run --output data/train_demo.jsonl/images"),
        ("scripts/evaluation/run_vlm_evaluation.py", "--output_dir data/train_demo.jsonl/results"),
        ("scripts/evaluation/run_vlm_output.py", "--save_dir data/train_demo.jsonl"),
        ("scripts/training/export_model.py", "--checkpoint models/tiny --output data/train_demo.jsonl/a"),
    ],
)
def test_a_place_that_cannot_be_a_folder_is_refused_at_once(root: Path, script: str, line: str) -> None:
    done = run_script(script, *line.split(), root=root)
    assert done.returncode == 1
    assert "it cannot be a folder, since" in done.stderr
    assert len(done.stderr.splitlines()) == 1
