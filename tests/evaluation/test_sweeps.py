"""Sweeps: eval.sh's keys, and models x dimensions over workers, with the scripts that users call."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, Finished, Parsed, run_script
from test_jobs import has_ray, needs_ray

from leap.evaluation.model_names import chosen_models

PARALLEL = "scripts/evaluation/run_parallel_evaluation.py"
SMALL = "--image_tokens_min 4 --image_tokens_max 9 --max_new_tokens 12".split()
KEYS = {
    "qwen3_2b": ("Qwen3-VL-2B-Instruct", []),
    "qwen3_2b_0shot": ("Qwen3-VL-2B-Instruct", ["--few_shot_num", "0"]),
    "qwen3_2b_1shot": ("Qwen3-VL-2B-Instruct", ["--few_shot_num", "1"]),
    "qwen3_4b": ("Qwen3-VL-4B-Instruct", []),
    "qwen2.5_3b": ("Qwen2.5-VL-3B-Instruct", []),
    "qwen2_2b": ("Qwen2-VL-2B-Instruct", []),
    "internvl": ("InternVL3_5-2B-HF", []),
    "minicpm": ("MiniCPM-V-4.6", []),
}


def eval_sh(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(REPOSITORY / "eval.sh"), *arguments]
    environment = {**os.environ, "LEAP_ROOT": str(root)}
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


def words_of(key: str, *options: str, root: Path) -> tuple[str, list[str]]:
    """The script and the options that a key calls it with."""
    done = eval_sh(key, "--dry-run", *options, root=root)
    assert done.returncode == 0, done.stderr
    python, script, *words = shlex.split(done.stdout)
    assert python == "python"
    return str(Path(script).relative_to(REPOSITORY)), words


@pytest.mark.parametrize("key", KEYS)
def test_a_key_evaluates_its_model_on_all_dimensions(key: str, tmp_path: Path, parse_only: None) -> None:
    name, options = KEYS[key]
    (tmp_path / "models" / name).mkdir(parents=True)
    script, words = words_of(key, "--batch_size", "4", root=tmp_path)
    assert words == [*options, "--checkpoint", f"models/{name}", "--dimension", "all", "--batch_size", "4"]
    with pytest.raises(Parsed):
        run_script(script, *words, root=tmp_path)


def test_the_batch_and_the_monitor(tmp_path: Path, parse_only: None) -> None:
    (tmp_path / "models" / "Qwen3-VL-2B-Instruct").mkdir(parents=True)
    for key, *options in (("qwen3_2b_batch", "--max_checkpoints", "3"), ("monitor", "--once", "--json")):
        script, words = words_of(key, *options, root=tmp_path)
        assert (REPOSITORY / script).is_file()
        with pytest.raises(Parsed):
            run_script(script, *words, root=tmp_path)
    assert words == ["--once", "--json"]


def test_the_usage_lists_every_key(tmp_path: Path) -> None:
    for arguments, stream in (([], "stderr"), (["gpt"], "stderr"), (["--help"], "stdout")):
        done = eval_sh(*arguments, root=tmp_path)
        assert done.returncode == (0 if stream == "stdout" else 2)
        listed = [line.split()[0] for line in getattr(done, stream).splitlines() if line.startswith("  ")]
        assert set(listed) == {*KEYS, "qwen3_2b_batch", "monitor", "deepseek"}


def test_what_cannot_run_is_reported_in_one_line(tmp_path: Path) -> None:
    missing = eval_sh("qwen2_2b", root=tmp_path)
    folder = tmp_path / "models" / "Qwen2-VL-2B-Instruct"
    assert missing.returncode == 1
    assert f"hf download Qwen/Qwen2-VL-2B-Instruct --local-dir {folder}\n" in missing.stderr
    unsupported = eval_sh("deepseek", root=tmp_path)
    assert unsupported.returncode == 1
    assert unsupported.stderr.startswith("error: deepseek is not supported")


def planned(*arguments: str, root: Path) -> list[str]:
    done = run_script(PARALLEL, *arguments, "--dry_run", root=root)
    assert done.returncode == 0, done.stderr
    *notes, line = done.stdout.splitlines()
    assert notes == [] if has_ray() else all("Ray is not installed" in note for note in notes)
    return shlex.split(line)[2:]


def test_models_go_over_the_places_that_there_are(tmp_path: Path) -> None:
    models = "--checkpoint models/a output/checkpoint-3 --dimension complex m&t".split()
    ray, jobs = (["--ray_address", "local"], ["--jobs", "3"]) if has_ray() else ([], [])
    assert planned("--gpus", "0,1", *models, root=tmp_path) == [*models, *ray]
    assert planned("--gpus", "0", *models, root=tmp_path) == models
    assert planned("--gpus", "none", "--jobs", "3", *models, root=tmp_path) == [*models, *ray, *jobs]
    cluster = ["--ray_address", "head:6379", "--jobs", "64"]  # however few GPUs are here
    assert planned(*cluster, *models, "--", "--few_shot_num", "1", root=tmp_path) == [
        *models, "--few_shot_num", "1", *cluster
    ]  # fmt: skip


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (200, 1000, 90):
        (tmp_path / f"checkpoint-{step}").mkdir()
    found = chosen_models(Path("base"), tmp_path, newest=2)
    assert [folder.name for folder in found] == ["base", "checkpoint-200", "checkpoint-1000"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--checkpoint a/checkpoint-1 b/a/checkpoint-1", "would both be a-checkpoint-1"),
        ("--checkpoint a b -- --model_name same", "cannot share one name"),
        ("--batch_mode --checkpoint a", "no --checkpoint"),
        ("--max_checkpoints 3", "go with --batch_mode"),
        ("--gpus 0,0", "each GPU once"),
        ("--gpus 0 --jobs 2", "1 GPU"),
    ],
)
def test_contradictions_are_wrong_usage(arguments: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "output" / "checkpoint-1").mkdir(parents=True)
    refused = run_script(PARALLEL, *arguments.split(), root=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert message in line


@pytest.fixture
def root(workspace: Path, tmp_path: Path) -> Path:
    """The demo's data with two models, and one whose weights are missing."""
    root = tmp_path / "sweep"
    shutil.copytree(workspace / "dataset", root / "dataset")
    for name in ("Qwen3-VL-2B-Instruct", "other", "broken"):
        shutil.copytree(workspace / "models" / "tiny", root / "models" / name)
    (root / "models" / "broken" / "model.safetensors").unlink()
    return root


def sweep(root: Path, models: list[str], *arguments: str) -> Finished:
    dimensions = ["--dimension", "Spatial", "M&T"]
    return run_script(PARALLEL, "--checkpoint", *models, *dimensions, *arguments, "--", *SMALL, root=root)


def check(root: Path, swept: Finished, whole: set[str]) -> None:
    """The whole models are complete, and the broken one alone has failed."""
    assert swept.returncode == 1, swept.stdout + swept.stderr
    assert "broken: it holds no weights" in swept.stderr
    for dimension in ("Spatial", "M&T"):
        assert {path.name for path in (root / "eva_results" / dimension).iterdir()} == whole
        for model in whole:
            manifest = json.loads((root / "eva_results" / dimension / model / "manifest.json").read_text())
            assert manifest["status"] == "complete"


@pytest.mark.slow
def test_a_failing_model_does_not_stop_the_others(root: Path) -> None:
    swept = sweep(root, ["models/broken", "models/Qwen3-VL-2B-Instruct"], "--gpus", "none")
    check(root, swept, {"Baseline"})
    watched = run_script("scripts/utils/monitor_evaluation.py", "--once", "--json", root=root)
    assert watched.returncode == 0
    found = json.loads(watched.stdout)["evaluations"]
    assert [(one["model"], one["dimension"]) for one in found] == [("Baseline", "M&T"), ("Baseline", "Spatial")]
    assert all(one["status"] == "complete" and one["done"] == one["total"] == 2 for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=needs_ray)])
def test_two_models_on_two_dimensions(root: Path, jobs: str) -> None:
    models = ["models/Qwen3-VL-2B-Instruct", "models/broken", "models/other"]
    swept = sweep(root, models, "--gpus", "none", "--jobs", jobs)
    check(root, swept, {"Baseline", "other"})


def test_the_root_script_is_the_parallel_evaluation(tmp_path: Path) -> None:
    command = ["bash", str(REPOSITORY / "run_vlabench_evaluation_bingXing.sh"), "--gpus", "none", "--dry_run"]
    environment = {**os.environ, "LEAP_ROOT": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.split()[1].endswith("scripts/evaluation/run_vlm_evaluation.py")
