"""GRPO on the tiny model: it learns what is rewarded, leaves LEAP's checkpoints, and never loses work."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, run_script, run_script_apart
from safetensors.torch import load_file, save_file

from leap.models.checkpoints import read_log, read_marker
from leap.records.json_files import read_json
from leap.reinforcement.policy_recipe import PolicyRecipe
from leap.training.recipe import read_recipe

pytest.importorskip("trl", reason='TRL is an optional extra: pip install -c constraints.txt -e ".[rl]"')

from leap.reinforcement import grpo_trainer

GRPO = "scripts/training/run-grpo.py"
TINY = (
    "--recipe demo-grpo --model_name_or_path models/tiny --freeze_vision false --eval_benchmark null "
    "--per_device_train_batch_size 8 --num_generations 4 --max_completion_length 8 --image_tokens_min 4 "
    "--image_tokens_max 4 --learning_rate 1e-2 --warmup_steps 0 --logging_steps 1 --save_total_limit 3 "
    "--gradient_accumulation_steps 1 --steps_per_generation null"
)
# The share of a response's characters that are an e: an untrained model says some, and can learn to say more.
OWN = "def reward(response, reference):\n    return response.count('e') / max(len(response), 1)\n"
KILLS = """
import os, signal
from pathlib import Path
CALLS = []
def reward(response, reference):
    CALLS.append(response)
    mark = Path(__file__).with_name("killed")
    if len(CALLS) > 40 and not mark.exists():  # in the sixth step of eight responses
        mark.touch()
        os.kill(os.getpid(), signal.SIGNAL)
    return response.count('e') / max(len(response), 1)
"""


def arguments(output: str, own: Path, steps: int, *more: str) -> list[str]:
    own_reward = ["--reward_file", f"{own}:reward", "--reward_weights", "{own: 1.0}"]
    return [*TINY.split(), "--output_dir", f"output/{output}", "--max_steps", str(steps), *own_reward, *more]


def weights(workspace: Path, run: str, step: int) -> dict[str, torch.Tensor]:
    return load_file(workspace / "output" / run / f"checkpoint-{step}" / "model.safetensors")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("reward") / "mine.py"
    file.write_text(OWN)
    return file


def test_it_learns_what_is_rewarded(workspace: Path, own: Path) -> None:
    done = run_script(GRPO, *arguments("learns", own, 12, "--save_steps", "6"), root=workspace)
    assert done.returncode == 0, done.stderr
    run = workspace / "output" / "learns"
    report = read_json(run / "training_report.json")
    rewards = [entry["reward"] for entry in report["history"] if "reward" in entry]
    assert len(rewards) == 12
    assert sum(rewards[-3:]) > sum(rewards[:3])
    assert report["step"] == 12
    assert "rewards/own/mean" in report["history"][0]
    assert (run / "training_reward.png").is_file()
    lines = [line for line in done.stderr.splitlines() if line.startswith("step ")]
    assert lines[-1].startswith("step 12/12  reward ")
    assert read_marker(run / "checkpoint-12")["recipe"]["num_generations"] == 4
    again = run_script(GRPO, *arguments("learns", own, 12, "--save_steps", "6"), root=workspace)
    assert "this run is finished" in again.stdout


@pytest.mark.slow
def test_a_micro_batch_has_whole_groups_and_teaches_the_same(
    workspace: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the library's, whose micro-batches of 8 responses have some of three or all four groups."""
    from trl.trainer.utils import shuffle_sequence_dict

    share, learned = grpo_trainer.share_prompts, {}
    for name in ("together", "shuffled"):
        groups = []

        def shared(*inputs: Any, groups: list[int] = groups) -> Any:
            found = share(*inputs)
            groups.append(len(found.inputs["input_ids"]) if found else 0)
            return found

        monkeypatch.setattr(grpo_trainer, "share_prompts", shared)
        if name == "shuffled":
            monkeypatch.setattr(
                grpo_trainer, "neighbours_together", lambda sampled, steps: shuffle_sequence_dict(sampled)
            )
        more = "--gradient_accumulation_steps 2 --save_steps 2 --learning_rate 1e-3 --adam_epsilon 1".split()
        done = run_script(GRPO, *arguments(name, own, 2, *more), root=workspace)
        assert done.returncode == 0, done.stderr
        learned[name] = groups, weights(workspace, name, 2)
    assert learned["together"][0] == [2] * 4
    assert max(learned["shuffled"][0]) > 2
    one, other = (found for _, found in learned.values())
    start = load_file(workspace / "models" / "tiny" / "model.safetensors")
    moved = max(float((one[key] - start[key]).abs().max()) for key in one)
    apart = max(float((one[key] - other[key]).abs().max()) for key in one)
    assert apart < 1e-3 * moved


@pytest.mark.slow
def test_two_ranks_learn_together(workspace: Path, tmp_path: Path) -> None:
    """Each from responses of its own, of which unlike numbers have an advantage: half of the prompts earn nothing."""
    (tmp_path / "mine.py").write_text(OWN.rstrip() + " * (len(str(reference)) % 2)\n")
    apart = "--save_steps 4 --gradient_accumulation_steps 2 --steps_per_generation 1".split()
    flags = arguments("two", tmp_path / "mine.py", 4, *apart)
    words = [sys.executable, "-m", "leap.launch", GRPO, *flags]
    there = {**os.environ, "NUM_GPUS": "2", "LEAP_ROOT": str(workspace), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(words, cwd=REPOSITORY, env=there, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len([entry for entry in read_log(workspace / "output" / "two" / "checkpoint-4") if "reward" in entry]) == 4


def test_its_checkpoint_is_one_like_any_other(workspace: Path, own: Path) -> None:
    """It is evaluated, and another training starts from it."""
    checkpoint = "output/learns/checkpoint-12"
    ask = f"--checkpoint {checkpoint} --dimension Spatial --prompt leap --scorer leap --max_new_tokens 4"
    done = run_script("scripts/evaluation/run_vlm_evaluation.py", *ask.split(), root=workspace)
    assert done.returncode == 0, done.stderr
    more = arguments("further", own, 1, "--save_steps", "1")
    more[more.index("models/tiny")] = checkpoint
    assert run_script(GRPO, *more, root=workspace).returncode == 0


def test_its_card_has_the_recipe_that_trains_it_again(workspace: Path, tmp_path: Path) -> None:
    flags = ["--checkpoint", "output/learns/checkpoint-12", "--output", str(tmp_path / "whole")]
    done = run_script("scripts/training/export_model.py", *flags, root=workspace)
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "scripts/training/run-grpo.py --recipe recipe.yaml" in card
    assert "- files: data/train_demo.jsonl\n- learned from rewards, by GRPO with 4 responses to each prompt" in card
    stored = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert stored
    (tmp_path / "recipe.yaml").write_text(stored[1])
    recipe = read_recipe(tmp_path / "recipe.yaml", kind=PolicyRecipe)
    assert (recipe.method, recipe.weights, recipe.max_completion_length) == ("grpo", {"own": 1.0}, 8)


def test_another_runs_folder_is_refused(workspace: Path, own: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN + "\n")
    for changed in (["--temperature", "0.9"], ["--reward_file", f"{tmp_path / 'mine.py'}:reward"]):
        line = arguments("learns", own, 12, "--save_steps", "6", *changed)
        done = run_script(GRPO, *line, root=workspace)
        assert done.returncode == 1
        assert "it belongs to another run" in done.stderr.splitlines()[-1]


def test_adapters_learn_and_have_their_base(workspace: Path, own: Path) -> None:
    more = "--finetuning lora --lora_r 2 --lora_dropout 0 --save_steps 2".split()
    done = run_script(GRPO, *arguments("adapters", own, 2, *more), root=workspace)
    assert done.returncode == 0, done.stderr
    folder = workspace / "output" / "adapters" / "checkpoint-2"
    settings = read_json(folder / "adapter_config.json")
    assert settings["base_model_name_or_path"] == "models/tiny"
    changed = [name for name, value in load_file(folder / "adapter_model.safetensors").items() if value.any()]
    assert any("lora_B" in name for name in changed)  # zeros before the first step


def test_every_reward_and_the_image_term_run_together(workspace: Path) -> None:
    line = [*TINY.split(), *"--output_dir output/images --max_steps 4 --save_steps 4 --image_share 0.9".split()]
    line += [
        "--reward_weights",
        "{grounded: 1.0, form: 0.2, exact: 0.2, image: 0.5}",
        "--num_iterations",
        "2",
        "--steps_per_generation",
        "2",  # twice as many responses are sampled as go through the model at once
        "--beta",
        "0.04",
    ]
    done = run_script(GRPO, *line, root=workspace)
    assert done.returncode == 0, done.stderr
    log = read_log(workspace / "output" / "images" / "checkpoint-4")
    assert {"kl", "rewards/grounded/mean", "rewards/form/mean", "rewards/exact/mean", "rewards/image/mean"} <= log[
        0
    ].keys()


@pytest.mark.slow
def test_the_benchmark_changes_nothing_that_is_learned(workspace: Path, own: Path) -> None:
    runs = {"alone": [], "measured": ["--eval_benchmark", "6", "--eval_steps", "1"]}
    for name, more in runs.items():
        done = run_script_apart(GRPO, *arguments(name, own, 2, "--save_steps", "2", *more), root=workspace)
        assert done.returncode == 0, done.stderr
    one, other = (weights(workspace, name, 2) for name in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)
    log = read_log(workspace / "output" / "measured" / "checkpoint-2")
    assert [entry["step"] for entry in log if "eval_grounded" in entry] == [0, 1, 2]


def killed(workspace: Path, run: str, folder: Path, signal: str) -> subprocess.CompletedProcess[str]:
    """A run whose own reward ends it in the sixth step."""
    (folder / "mine.py").write_text(KILLS.replace("SIGNAL", signal))
    command = [sys.executable, str(REPOSITORY / GRPO), *arguments(run, folder / "mine.py", 8, "--save_steps", "4")]
    environment = {**os.environ, "LEAP_ROOT": str(workspace)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def unbroken(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a run of the same reward that is not killed."""
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "killed").touch()
    done = killed(workspace, "unbroken", folder, "SIGKILL")
    assert done.returncode == 0, done.stderr
    return "unbroken"


@pytest.mark.slow
@pytest.mark.parametrize(("signal", "code", "saved"), [("SIGKILL", -9, 4), ("SIGTERM", 143, 6)])
def test_a_stopped_run_ends_as_an_unbroken_one(
    workspace: Path, tmp_path: Path, unbroken: str, signal: str, code: int, saved: int
) -> None:
    broken = f"broken_{code}"
    first = killed(workspace, broken, tmp_path, signal)
    assert first.returncode == code, first.stderr
    steps = sorted(int(path.name.split("-")[1]) for path in (workspace / "output" / broken).glob("checkpoint-*"))
    assert steps[-1] == saved
    done = killed(workspace, broken, tmp_path, signal)  # the second time it is not
    assert done.returncode == 0, done.stderr
    one, other = weights(workspace, broken, 8), weights(workspace, unbroken, 8)
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs: list[list[dict[str, Any]]] = [
        [{key: entry.get(key) for key in ("step", "loss", "reward", "entropy")} for entry in log if "reward" in entry]
        for log in (read_log(workspace / "output" / run / "checkpoint-8") for run in (broken, unbroken))
    ]
    assert logs[0] == logs[1]


def test_what_is_no_number_is_not_saved(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def reward(response, reference):\n    return 1e38 * (len(response) % 3)\n")
    line = arguments("huge", tmp_path / "mine.py", 4, "--save_steps", "1", "--scale_rewards", "none")
    done = run_script(GRPO, *line, root=workspace)
    assert done.returncode == 1
    assert "Nothing of it is saved (no checkpoint yet)" in done.stderr.splitlines()[-1]


def test_a_model_whose_weights_are_no_numbers_ends_in_one_line(workspace: Path, own: Path) -> None:
    broken = workspace / "models" / "broken"
    shutil.copytree(workspace / "models" / "tiny", broken)
    tensors = load_file(broken / "model.safetensors")
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    line = arguments("no_numbers", own, 1, "--save_steps", "1", "--model_name_or_path", "models/broken")
    done = run_script(GRPO, *line, root=workspace)
    assert done.returncode == 1
    assert "step 1: the model's probabilities are no numbers. Nothing of it is saved" in done.stderr.splitlines()[-1]


def test_several_gpus_need_several_processes(workspace: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    done = run_script(GRPO, *arguments("visible", own, 1, "--save_steps", "1"), root=workspace)
    assert done.returncode == 1
    assert "2 GPUs are visible to one process: start one process a GPU (torchrun" in done.stderr.splitlines()[-1]


def test_a_full_disk_ends_a_run_in_one_line(workspace: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(workspace)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    done = run_script(GRPO, *arguments("full", own, 1, "--save_steps", "1"), root=workspace)
    assert done.returncode == 1
    assert "the disk is too full: checkpoint-1 needs" in done.stderr.splitlines()[-1]
