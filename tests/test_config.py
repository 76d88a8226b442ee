"""The workspace's paths, and recipes that refuse what they do not know."""

import argparse
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_script

from configs import config
from configs.config import REPOSITORY, WorkspaceConfig
from leap.environment import check_environment
from leap.errors import LeapError
from leap.reinforcement.policy_recipe import PolicyRecipe
from leap.training.overrides import add_recipe_flags, recipe_overrides
from leap.training.recipe import Recipe, read_recipe

FULL = REPOSITORY / "configs" / "recipes" / "full.yaml"


def test_the_workspace_is_the_repository_unless_leap_root_moves_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LEAP_ROOT", raising=False)
    assert WorkspaceConfig.find().root == REPOSITORY
    monkeypatch.setenv("LEAP_ROOT", str(tmp_path))
    moved = WorkspaceConfig.find()
    assert moved.eva_results == tmp_path / "eva_results"
    assert moved.recipes == REPOSITORY / "configs" / "recipes"
    monkeypatch.setenv("LEAP_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(LeapError, match="nowhere"):
        WorkspaceConfig.find()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEAP_ROOT", "~nobody-of-this-name"),
        ("WORLD_SIZE", "many"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", "2"),
        ("RANK", "first"),
        ("RANK", "1"),
        ("LOCAL_RANK", "-1"),
        ("MASTER_PORT", "http"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
    ],
)
def test_an_environment_of_nonsense_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    for script in ("training/run-finetuning.py", "download/download_model.py"):
        done = run_script(f"scripts/{script}", "--dry_run", root=None if name == "LEAP_ROOT" else tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {name}={value}")
        assert len(done.stderr.splitlines()) == 1


def test_a_home_folder_of_nobody_in_a_path_is_wrong_usage(tmp_path: Path) -> None:
    done = run_script("scripts/evaluation/score_predictions.py", "~nobody-of-this-name/r", root=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "~nobody-of-this-name/r: there is no such user's folder" in done.stderr


def test_a_notebook_s_plotting_backend_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks name one to all their children, and matplotlib ends where a Python does not have it."""
    monkeypatch.setenv("MPLBACKEND", "module://of_no_package")
    check_environment()
    code = "import matplotlib.figure; print(matplotlib.get_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "agg\n"


def test_the_workspace_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        WorkspaceConfig.find().root = Path("/")  # type: ignore[misc]


def test_printing_the_paths_works_from_anywhere(tmp_path: Path) -> None:
    environment = {**os.environ, "LEAP_ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "configs.config"], cwd="/", env=environment, capture_output=True, text=True, check=True
    )
    assert f"missing {tmp_path}/models" in done.stdout
    assert f"exists  {tmp_path}\n" in done.stdout


@pytest.mark.parametrize("kept", [[], [".gitkeep"], [".gitkeep", ".DS_Store"]])
def test_an_empty_folder_does_not_exist_for_whoever_needs_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: list[str]
) -> None:
    """Above all a submodule that was not checked out."""
    for folder in ("VLABench", "data", "models"):
        (tmp_path / folder).mkdir()
        for name in kept:
            (tmp_path / folder / name).touch()
    (tmp_path / "models" / "mine").mkdir()
    monkeypatch.setenv("LEAP_ROOT", str(tmp_path))
    monkeypatch.setattr("configs.config.REPOSITORY", tmp_path)
    config.main()
    shown = capsys.readouterr().out
    states = {line.split()[0]: line.split()[1] for line in shown.splitlines()}
    assert {name: states[name] for name in ("vlabench", "data", "models", "output")} == {
        "vlabench": "empty", "data": "empty", "models": "exists", "output": "missing",
    }  # fmt: skip
    assert "git submodule update --init VLABench" in shown
    (tmp_path / "VLABench" / "README.md").touch()
    config.main()
    shown = capsys.readouterr().out
    assert "submodule" not in shown
    assert f"exists  {tmp_path / 'VLABench'}" in shown


@pytest.mark.parametrize("name", [path.stem for path in FULL.parent.glob("*.yaml")])
def test_every_recipe_is_valid(name: str) -> None:
    kind = PolicyRecipe if name.endswith(("grpo", "rft")) else Recipe
    assert read_recipe(FULL.with_name(f"{name}.yaml"), {}, kind).train_file


def test_the_full_recipe_holds_the_seeds_values() -> None:
    recipe = read_recipe(FULL)
    assert recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps == 36
    assert (recipe.learning_rate, recipe.warmup_steps, recipe.weight_decay) == (1.5e-5, 800, 0.01)
    assert (recipe.image_tokens_min, recipe.image_tokens_max, recipe.model_max_length) == (256, 768, 4096)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("learning_rat: 1.0e-5", "learning_rat: unknown key; did you mean learning_rate?"),
        ("learning_rate: 1e-5x", "learning_rate"),
        ("learning_rate: -1.0", "learning_rate"),
        ("num_train_epochs: two", "num_train_epochs"),
        ("image_tokens_min: 900", "image_tokens_min=900 is over"),
        ("fp16: true", "exclude each other"),
        ("eval_strategy: steps", "needs a val_file"),
        ("attn_implementation: fast", "attn_implementation"),
        ("seed: [", ":"),
    ],
)
def test_a_wrong_recipe_names_file_and_key(tmp_path: Path, line: str, words: str) -> None:
    key = line.split(":")[0]
    kept = [kept for kept in FULL.read_text().splitlines() if not kept.startswith(f"{key}:")]
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join([*kept, line]))
    with pytest.raises(LeapError) as error:
        read_recipe(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(LeapError, match="there are: demo, "):
        read_recipe(FULL.with_name("nothing.yaml"))


def test_every_value_can_be_given_on_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_recipe_flags(parser)
    line = "--learning_rate 1e-5 --bf16 false --gradient_checkpointing --max_steps 7 --val_file null --report_to none"
    given = recipe_overrides(parser.parse_args(line.split()))
    recipe = read_recipe(FULL, given)
    assert (recipe.learning_rate, recipe.bf16, recipe.gradient_checkpointing) == (1e-5, False, True)
    assert (recipe.max_steps, recipe.val_file, recipe.report_to) == (7, None, "none")
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {f"--{name}" for name in Recipe.model_fields} <= flags
