"""What a recipe with rewards may say, and that a wrong one is refused in one line."""

from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, run_script

from leap.errors import LeapError, UsageError
from leap.reinforcement.own_reward import read_own_reward
from leap.reinforcement.policy_recipe import PolicyRecipe
from leap.training.recipe import Recipe, read_recipe

RECIPES = REPOSITORY / "configs" / "recipes"
GRPO = "scripts/training/run-grpo.py"


def policy(**values: Any) -> PolicyRecipe:
    return read_recipe(RECIPES / "demo-grpo.yaml", values, PolicyRecipe)


@pytest.mark.parametrize("name", ["grpo", "demo-grpo", "demo-rft"])
def test_a_shipped_recipe_is_whole(name: str) -> None:
    recipe = read_recipe(RECIPES / f"{name}.yaml", {}, PolicyRecipe)
    assert recipe.weights["grounded"] == 1.0
    assert isinstance(recipe.plain(), Recipe)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--reward_weights total_score", "Input should be a valid dictionary"),
        ("--num_generations 1", "--num_generations 1: Input should be greater than or equal to 2"),
        ("--replay_file data/train.jsonl", "replay_file: GRPO learns from responses alone"),
        ("--num_generations 5", "64 responses are sampled at once, which is no multiple of num_generations=5"),
        ("--image_share 0.5", "reward_weights: image and image_share need each other"),
        ("--val_file data/test_demo.jsonl", "val_file: GRPO does not take it; eval_benchmark"),
        ("--method rft --use_vllm true", "use_vllm: rejection sampling samples with the hf engine"),
        ("--quantization 4bit --finetuning lora --freeze_vision false", "quantization: GRPO does not take it"),
        (
            "--beta 0.04 --finetuning lora --freeze_vision false --resume_from_lora output/some",
            "the base without the adapter",
        ),
        ("--max_steps null", "max_steps: GRPO needs a number of steps"),
        ("--steps_per_generation 16 --save_steps 18 --max_steps 36", "sampled every 4 steps"),
        ("--steps_per_generation 2 --gradient_accumulation_steps 3", "a multiple of gradient_accumulation_steps"),
        ("--reward_file mine.py", "FILE.py:FUNCTION is expected"),
        ("--reward_file mine.py:reward", "there is no such file"),
        ("--group_size 8", "unrecognized arguments: --group_size"),
    ],
)
def test_a_wrong_flag_is_answered_in_one_line(workspace: Path, line: str, words: str) -> None:
    done = run_script(GRPO, "--recipe", "demo-grpo", *line.split(" "), root=workspace)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]


def test_total_score_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="total_score is no reward: it is a recall"):
        policy(reward_weights={"total_score": 1.0})
    with pytest.raises(UsageError, match="no reward has a weight"):
        policy(reward_weights={"grounded": 0.0})
    with pytest.raises(UsageError, match="own needs a reward_file"):
        policy(reward_weights={"grounded": 1.0, "own": 2.0})


def test_a_run_has_so_many_prompts() -> None:
    recipe = policy(
        max_steps=100, save_steps=20, per_device_train_batch_size=16, gradient_accumulation_steps=1,
        steps_per_generation=None,
    )  # fmt: skip
    assert recipe.prompts_needed(1) == 200
    assert recipe.prompts_needed(2) == 400
    again = recipe.model_copy(update={"steps_per_generation": 4, "num_iterations": 2})
    assert (again.steps_of_a_sampling, again.prompts_needed(1)) == (8, 8 * 12)
    several = policy(max_steps=10, save_steps=5, steps_per_generation=2, gradient_accumulation_steps=8)
    assert (several.steps_of_a_sampling, several.prompts_needed(1)) == (1, 8 * 8 * 10)


def test_an_own_reward_is_a_function_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def short(response, reference):\n    return -len(response) / len(reference)\n")
    own = read_own_reward(f"{file}:short", tmp_path)
    assert own("four", [{}, {}]) == -2.0
    assert policy(reward_file=f"{file}:short").weights["own"] == 1.0
    assert policy(reward_file=f"{file}:short", reward_weights={"own": 0.5}).weights == {"own": 0.5}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / 0", "it fails (ZeroDivisionError: division by zero)"),
        ("return float('nan')", "a finite number or None is expected, found nan"),
        ("return 'good'", "found 'good'"),
    ],
)
def test_a_failure_of_an_own_reward_is_no_score(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(f"def reward(response, reference):\n    {body}\n")
    own = read_own_reward("mine.py:reward", tmp_path)
    with pytest.raises(LeapError) as error:
        own("a", [])
    assert words in str(error.value)


def test_a_changed_own_reward_is_another_run(tmp_path: Path) -> None:
    recipe = policy(reward_file="mine.py:reward")
    first, second = (recipe.with_own_reward(name).identity() for name in ("one", "two"))
    assert first != second
    assert recipe.identity().items() <= first.items()


def test_what_vllm_may_take_decides_nothing_that_is_learned() -> None:
    plain, more = policy(use_vllm=True), policy(use_vllm=True, vllm_gpu_memory_utilization=0.5)
    assert plain.identity() == more.identity() != policy().identity()
