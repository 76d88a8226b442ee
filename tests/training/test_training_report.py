"""What a run says of itself: its needs before it starts, its report and loss plot after, whole again after a resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_RECIPE, run_script
from PIL import Image
from test_recipes import tiny_recipe
from tiny_models import save_tiny_model

from leap.models.loading import load_model
from leap.training import memory
from leap.training.stochastic_adamw import StochasticAdamW
from leap.training.trainable_model import plan_training

FINETUNE = "scripts/training/run-finetuning.py"
ARGUMENTS = (
    f"--recipe {TINY_RECIPE} --max_steps 6 --save_steps 2 --save_total_limit 3 --warmup_steps 0 --logging_steps 1 "
    "--per_device_train_batch_size 2 --image_tokens_min 4 --image_tokens_max 9 --val_file data/test_demo.jsonl "
    "--max_eval_samples 2 --eval_steps 3 --output_dir output/reported"
).split()


def optimizer_for(name: str, model: Any) -> torch.optim.Optimizer:
    return (StochasticAdamW if name == "adamw_bf16_stochastic" else torch.optim.AdamW)(model.parameters(), lr=1e-4)


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(("optim", "dtype"), [("adamw_torch", "float32"), ("adamw_bf16_stochastic", "bfloat16")])
def test_states_take_what_is_predicted(model: Path, tmp_path: Path, optim: str, dtype: str) -> None:
    """Every tensor that a step leaves behind, and the files of a checkpoint."""
    trained = memory.count_weights(model)
    foretold = memory.state_bytes(trained, 0, optim, bf16=False)
    loaded = load_model(model, dtype)
    for parameter in loaded.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = optimizer_for(optim, loaded)
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    weights = list(loaded.parameters())
    assert size([*weights, *(weight.grad for weight in weights), *moments]) == foretold
    loaded.save_pretrained(tmp_path / "checkpoint")
    torch.save(optimizer.state_dict(), tmp_path / "checkpoint" / "optimizer.pt")
    written = sum(file.stat().st_size for file in (tmp_path / "checkpoint").iterdir())
    assert memory.checkpoint_size(trained, 0, optim, adapter=False).whole == pytest.approx(written, rel=0.05)


def test_frozen_weights_and_adapters_take_less(model: Path) -> None:
    from peft import LoraConfig, get_peft_model

    plan = plan_training(tiny_recipe(freeze_llm=True), model)
    tower, rest = plan.trained, plan.frozen
    assert tower + rest == memory.count_weights(model)
    assert 0 < tower < rest
    held = memory.state_bytes(tower, rest, "adamw_torch", bf16=True)
    assert held == 16 * tower + 4 * rest + 2 * (tower + rest)
    targets = ("q_proj", "down_proj")
    adapted = get_peft_model(load_model(model, "float32"), LoraConfig(r=4, target_modules=list(targets)))
    lora = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert memory.checkpoint_size(lora, rest, "adamw_torch", adapter=True).whole == 12 * lora


def test_the_newest_checkpoints_keep_their_state() -> None:
    size = memory.checkpoint_size(10, 0, "adamw_torch", adapter=False)
    assert (size.whole, size.stripped) == (120, 20)
    assert [size.of_run(count) for count in (1, 2, 5)] == [120, 240, 300]


def test_the_full_recipe_fits_24_gb_in_bfloat16_only() -> None:
    weights = 2_127_532_032  # of Qwen3-VL-2B
    assert memory.state_bytes(weights, 0, "adamw_torch_fused", bf16=True) > 34e9
    assert memory.state_bytes(weights, 0, "adamw_bf16_stochastic", bf16=True) < 18e9


def test_hours_go_by_the_gpus_peak() -> None:
    assert memory.assumed_rate("NVIDIA H100 80GB HBM3") == pytest.approx(989e12 * memory.ASSUMED_UTILISATION)
    assert memory.assumed_rate("some CPU") is None


def test_dry_run_shows_memory_and_disk(workspace: Path) -> None:
    done = run_script(FINETUNE, *ARGUMENTS, "--dry_run", root=workspace)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    weights = memory.count_weights(workspace / "models" / "tiny")
    assert memory.gigabytes(16 * weights) in lines["memory"]
    assert f"{memory.gigabytes((2 * 12 + 2) * weights)} for 3 checkpoints" in lines["disk"]


def test_a_family_whose_files_name_weights_in_another_way_is_planned(workspace: Path, tmp_path: Path) -> None:
    folder = save_tiny_model("qwen2_5_vl", tmp_path / "model", ["words"] * 3)
    plan = plan_training(tiny_recipe(freeze_vision=True), folder)
    trained, frozen = plan.trained, plan.frozen
    assert frozen > 0
    assert trained + frozen == memory.count_weights(folder)
    options = ["--freeze_vision", "--model_name_or_path", str(folder), "--model_max_length", "9000", "--dry_run"]
    done = run_script(FINETUNE, *ARGUMENTS, *options, root=workspace)
    assert done.returncode == 0, done.stderr
    assert f"{trained:,} of {trained + frozen:,} parameters are trainable" in done.stdout


@pytest.mark.slow
def test_report_and_plot_keep_the_history_of_a_resumed_run(workspace: Path) -> None:
    folder = workspace / "output" / "reported"
    done = run_script(FINETUNE, *ARGUMENTS, root=workspace)
    assert done.returncode == 0, done.stderr
    whole = json.loads((folder / "training_report.json").read_text())
    assert [entry["step"] for entry in whole["history"] if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in whole["history"] if "eval_loss" in entry] == [3, 6]
    assert (whole["step"], whole["of_steps"]) == (6, 6)
    assert whole["recipe"]["learning_rate"] == 2.0e-3
    assert whole["data"]["rows"] == 24
    assert whole["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert whole["throughput"]["rows_per_second"] > 0

    shutil.rmtree(folder / "checkpoint-6")  # as if killed before it: the report is ahead of the newest checkpoint
    (folder / "training_loss.png").unlink()
    done = run_script(FINETUNE, *ARGUMENTS, root=workspace)
    assert done.returncode == 0, done.stderr
    again = json.loads((folder / "training_report.json").read_text())
    assert losses(again) == pytest.approx(losses(whole))
    assert [(one["first_step"], one["steps"]) for one in again["throughput"]["sessions"]] == [(0, 4), (4, 2)]
    with Image.open(folder / "training_loss.png") as image:
        assert image.size == (3000, 1800)


@pytest.mark.slow
def test_a_resumed_runs_summary_is_of_its_own_steps(workspace: Path) -> None:
    """Of steps 5 and 6; nothing is logged at step 4, from where it goes on, and every epoch's last step is short."""
    folder = workspace / "output" / "summed"
    steps = [*ARGUMENTS, "--max_train_samples", "7", "--output_dir", "output/summed"]
    assert run_script(FINETUNE, *steps, root=workspace).returncode == 0
    of_steps = losses(json.loads((folder / "training_report.json").read_text()))
    shutil.rmtree(folder)
    for _ in range(2):
        done = run_script(FINETUNE, *steps, "--logging_steps", "5", root=workspace)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(folder / "checkpoint-6")
    report = json.loads((folder / "training_report.json").read_text())
    summary = report["history"][-1]
    assert summary["train_loss"] == pytest.approx(sum(of_steps[4:]) / 2)
    assert "train_samples_per_second" not in summary
    before, session = report["throughput"]["sessions"]  # what a kill lost after checkpoint-4 is in neither
    assert (before["first_step"], before["steps"]) == (0, 4)
    samples = report["recipe"]["per_device_train_batch_size"] * report["recipe"]["gradient_accumulation_steps"]
    a_step = [min(samples, 7 - place) for place in range(0, 7, samples)]
    assert session["rows"] == sum((a_step * 6)[4:6])
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["epoch"] == 4 / len(a_step)


def losses(report: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in report["history"] if "loss" in entry]
