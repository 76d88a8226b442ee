"""The whole road on a tiny scale, by the scripts that users call: train, kill, resume, evaluate, draw."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PYTHONPATH, REPOSITORY, TINY_RECIPE, run_script, run_script_apart
from safetensors.torch import load_file

from leap.models.checkpoints import MARKER

TINY = (
    f"--recipe {TINY_RECIPE} --per_device_train_batch_size 4 --max_steps 6 --save_steps 2 --warmup_steps 0 "
    "--logging_steps 1 --learning_rate 1e-3 --image_tokens_min 4 --image_tokens_max 9"
).split()
SMALL = "--baseline_model models/tiny --image_tokens_min 4 --image_tokens_max 9 --max_new_tokens 12".split()
FINETUNE = "scripts/training/run-finetuning.py"
EVALUATE = "scripts/evaluation/run_vlm_evaluation.py"
DRAW = "scripts/evaluation/draw_evaluation_results.py"
REPORT = "scripts/evaluation/build_report.py"


# One fresh process for both runs: importing takes longer than they do.
WHOLE_AND_KILLED = """
import runpy, sys
script, *options = sys.argv[1:]
for output in ("output/whole", "output"):
    sys.argv = [script, *options, "--output_dir", output]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code
"""


def kill_after_checkpoint(root: Path) -> Path:
    """Do a run; start it again and kill that (SIGKILL) as soon as its first checkpoint is complete: its folder."""
    command = [sys.executable, "-c", WHOLE_AND_KILLED, str(REPOSITORY / FINETUNE), *TINY]
    environment = {**os.environ, "LEAP_ROOT": str(root), "PYTHONPATH": PYTHONPATH}
    first = root / "output" / "checkpoint-2"
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, cwd="/", **quiet) as process:  # the repository has an output/ too
        deadline = time.monotonic() + 200
        while not (first / MARKER).is_file():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    return first


@pytest.fixture(scope="module")
def runs(workspace: Path) -> tuple[Path, Path]:
    """The last checkpoints of a run that was killed and resumed, and of the same run left alone."""
    first = kill_after_checkpoint(workspace)
    torn = first.with_name("checkpoint-4")  # as a kill in the middle of saving leaves it
    torn.mkdir(exist_ok=True)
    (torn / "config.json").write_text("{}")
    (torn / MARKER).unlink(missing_ok=True)
    resumed = run_script_apart(FINETUNE, *TINY, root=workspace)
    assert resumed.returncode == 0, resumed.stderr
    assert f"continues {first}" in resumed.stdout
    return workspace / "output" / "checkpoint-6", workspace / "output" / "whole" / "checkpoint-6"


def test_a_killed_run_resumes_to_the_very_weights_of_an_unbroken_one(runs: tuple[Path, Path]) -> None:
    resumed, whole = (load_file(folder / "model.safetensors") for folder in runs)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_finished_run_is_not_repeated(workspace: Path, runs: tuple[Path, Path]) -> None:
    again = run_script(FINETUNE, *TINY, root=workspace)
    assert again.returncode == 0
    assert "finished" in again.stdout


@pytest.mark.parametrize(
    ("change", "named"),
    [(["--learning_rate", "5e-4"], "learning_rate"), (["--train_file", "data/test_demo.jsonl"], "data")],
)
def test_another_runs_checkpoint_is_refused(
    workspace: Path, runs: tuple[Path, Path], change: list[str], named: str
) -> None:
    refused = run_script(FINETUNE, *TINY, *change, root=workspace)
    assert refused.returncode == 1
    assert "belongs to another run" in refused.stderr
    assert named in refused.stderr
    assert "--output_dir" in refused.stderr


def test_another_chat_template_of_the_base_is_another_run(
    workspace: Path, runs: tuple[Path, Path], model: Path
) -> None:
    path = model / "chat_template.jinja"
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"{# another #}")
        refused = run_script(FINETUNE, *TINY, root=workspace)
    finally:
        path.write_bytes(before)
    assert refused.returncode == 1
    assert "chat_template.jinja of the base model" in refused.stderr


def test_a_checkpoint_loads_anywhere_with_its_processor(runs: tuple[Path, Path], model: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    trained = AutoModelForImageTextToText.from_pretrained(runs[0])
    processor = AutoProcessor.from_pretrained(runs[0])
    base = AutoProcessor.from_pretrained(model)
    assert trained.config.model_type == "qwen3_vl"
    assert processor.chat_template == base.chat_template
    area = {"shortest_edge": 4 * 32**2, "longest_edge": 9 * 32**2}  # as it was trained, in pixels
    assert area.items() <= dict(processor.image_processor.size).items()


def test_evaluation_and_drawing(workspace: Path, runs: tuple[Path, Path]) -> None:
    baseline = run_script(EVALUATE, *SMALL, "--dimension", "baseline", root=workspace)
    assert baseline.returncode == 0, baseline.stderr
    options = ["--checkpoint", "output/checkpoint-6", "--dimension"]
    for control, dimension in (("none", "all"), ("blank", "spatial"), ("swapped", "spatial"), ("absent", "spatial")):
        done = run_script(EVALUATE, *SMALL, *options, dimension, "--image_control", control, root=workspace)
        assert done.returncode == 0, done.stderr
    folder = workspace / "eva_results" / "PhysicsLaw" / "checkpoint-6"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["counts"]["scored"] == 2
    assert manifest["recipe"]["learning_rate"] == 1e-3
    assert manifest["settings"]["decoding"]["temperature"] == 0
    (examples,) = json.loads((folder / "final_score.json").read_text()).values()
    assert set(examples) == {"0", "1"}
    before = (folder / "predictions.jsonl").read_bytes()
    again = run_script(EVALUATE, *SMALL, *options, "all", root=workspace)
    assert again.returncode == 0
    assert (folder / "predictions.jsonl").read_bytes() == before

    drawn = run_script(DRAW, *"--figure total_scores --format png".split(), root=workspace)
    assert drawn.returncode == 0, drawn.stderr
    for name in ("Baseline", "checkpoint-6", "checkpoint-6_blank", "checkpoint-6_swapped", "checkpoint-6_absent"):
        assert name in drawn.stdout
    assert (workspace / "eva_results" / "figures" / "total_scores.png").stat().st_size > 10_000

    built = run_script(REPORT, root=workspace)
    assert built.returncode == 0, built.stderr
    index = (workspace / "eva_results" / "report" / "data" / "index.js").read_text()
    for control in ("blank", "swapped", "absent"):
        assert f'"name":"checkpoint-6_{control}","control":"{control}","of":"checkpoint-6"' in index


def test_other_settings_do_not_mix_with_stored_answers(workspace: Path, runs: tuple[Path, Path]) -> None:
    options = ["--checkpoint", "output/checkpoint-6", "--dimension", "complex", "--model_name", "mixed"]
    assert run_script(EVALUATE, *SMALL, *options, root=workspace).returncode == 0
    refused = run_script(EVALUATE, *SMALL, *options, "--max_new_tokens", "13", root=workspace)
    assert refused.returncode == 1
    assert "--model_name" in refused.stderr


def test_an_interrupted_evaluation_asks_only_what_is_missing(workspace: Path, runs: tuple[Path, Path]) -> None:
    options = ["--checkpoint", "output/checkpoint-6", "--dimension", "spatial", "--model_name", "cut"]
    assert run_script(EVALUATE, *SMALL, *options, root=workspace).returncode == 0
    path = workspace / "eva_results" / "Spatial" / "cut" / "predictions.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(first.replace('"error":null', '"error":"lost"') + "\n" + second + "\n" + first[:20])
    again = run_script(EVALUATE, *SMALL, *options, root=workspace)
    assert again.returncode == 0, again.stderr
    lines = path.read_text().splitlines()
    assert lines == [first, second]


def test_one_plan_is_printed_and_a_bad_answer_is_reported(workspace: Path, runs: tuple[Path, Path]) -> None:
    example = next((workspace / "dataset").glob("*/Semantic/*/example0"))
    done = run_script(
        "scripts/evaluation/plan_one.py",
        *["--checkpoint", "output/checkpoint-6", "--image", str(example / "input" / "input.png")],
        *["--instruction", "Lift the cola.", *SMALL[2:]],
        root=workspace,
    )
    assert done.returncode == 1  # six steps of training make no plan, and the script says so
    assert "no plan" in done.stdout
