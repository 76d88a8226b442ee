"""Names of other trainers: taken where LEAP has the same, answered where it has something else, listed in the docs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, TEST_DATA, TINY_RECIPE, run_script

from leap.cli import Parser
from leap.errors import LeapError, UsageError
from leap.training.aliases import ALIASES, ANSWERS, RESUME, translated
from leap.training.optimizers import make_optimizer
from leap.training.overrides import add_recipe_flags, recipe_overrides
from leap.training.recipe import Recipe, read_recipe

FINETUNE = "scripts/training/run-finetuning.py"
TOOLS = json.loads((TEST_DATA / "trainer_flags.json").read_text())
FLAGS = {tool: found["flags"].split() for tool, found in TOOLS.items()}


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"base: {TINY_RECIPE}\n{text}\n")
    return path


def given(*line: str) -> dict[str, Any]:
    parser = Parser("A script.")
    add_recipe_flags(parser)
    return recipe_overrides(parser.parse_args(line))


def test_no_name_is_one_of_ours_and_every_alias_means_one() -> None:
    ours = set(Recipe.model_fields)
    assert not ours & (ALIASES.keys() | ANSWERS.keys())
    assert not ALIASES.keys() & ANSWERS.keys()
    assert {alias.key for alias in ALIASES.values()} <= ours


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("torch_compile", "false", "compile", False),
        ("activation_checkpointing", "true", "gradient_checkpointing", True),
        ("torch_dtype", "bfloat16", "bf16", True),
        ("lora_rank", "4", "lora_r", 4),
        ("finetuning_type", "lora", "finetuning", "lora"),
        ("lora_enable", "true", "finetuning", "lora"),
        ("image_max_pixels", "589824", "image_tokens_max", 576),
        ("min_pixels", "65537", "image_tokens_min", 64),
        ("freeze_vision_tower", "true", "freeze_vision", True),
        ("tune_mm_vision", "true", "freeze_vision", False),
        ("quantization_bit", "4", "quantization", "4bit"),
        ("bits", "16", "quantization", None),
        ("mask_history", "true", "train_on", "last"),
        ("lora_target", "q_proj,v_proj", "lora_target_modules", "q_proj,v_proj"),
        ("flash_attn", "fa2", "attn_implementation", "flash_attention_2"),
        ("cutoff_len", "512", "model_max_length", 512),
        ("data_path", "data/1.json", "train_file", "data/1.json"),
    ],
)
def test_an_alias_is_our_key(tmp_path: Path, name: str, text: str, key: str, value: Any) -> None:
    assert given(f"--{name}", text) == {key: value}
    assert given(f"--{name.replace('_', '-')}={text}") == {key: value}
    lora = "" if ALIASES[name].key == "finetuning" or key == "freeze_vision" else "finetuning: lora\n"
    recipe = read_recipe(written(tmp_path, f"{lora}{name}: {text}"))
    assert getattr(recipe, key) == (value.split(",") if key == "lora_target_modules" else value)


def test_all_linear_layers_are_those_of_the_full_preset() -> None:
    full = read_recipe(REPOSITORY / "configs" / "recipes" / "lora-full.yaml").lora_target_modules
    assert translated({"lora_target": "all"})["lora_target_modules"] == full
    assert translated({"target_modules": "all-linear"})["lora_target_modules"] == full
    assert translated({"target_modules": ["all-linear"]})["lora_target_modules"] == full


def test_a_switch_may_stand_alone() -> None:
    assert given("--freeze_vision_tower", "--tune_mm_llm") == {"freeze_vision": True, "freeze_llm": False}


def test_a_path_by_another_name_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").touch()
    parser = Parser("A script.")
    add_recipe_flags(parser)
    found = recipe_overrides(parser.parse_args(["--data_path", "mine.json"]), tmp_path / "workspace")
    assert found == {"train_file": str(tmp_path / "mine.json")}


def test_two_names_of_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--lora_rank is lora_r by another name, and so is lora_r; give one"):
        given("--lora_r", "4", "--lora_rank", "4")
    with pytest.raises(LeapError, match=r"mine\.yaml: vit_lr is vision_learning_rate .* so is vision_lr"):
        read_recipe(written(tmp_path, "vision_lr: 1.0e-5\nvit_lr: 1.0e-5"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("image_max_pixels: many", "image_max_pixels (image_tokens_max): a number of pixels is expected, found 'many'"),
        ("tune_mm_llm: 3", "tune_mm_llm (freeze_llm): true or false is expected, found 3"),
        ("bits: 3", "bits (quantization): one of 4, 8, 16, None is expected, found 3"),
        ("bits: [4]", "bits (quantization): one of 4, 8, 16, None is expected, found [4]"),
        ("torch_dtype: float16", "torch_dtype (bf16): one of bfloat16, float32 is expected, found 'float16'"),
        ("template: qwen3_vl\ndo_train: true", "template: unknown key; the model's own chat template is used"),
        ("template: qwen3_vl\ndo_train: true", "; do_train: unknown key; LEAP's script trains; leave it out"),
        (f"{RESUME}: output/x/checkpoint-5", f"{RESUME}: the same command resumes from the newest checkpoint"),
    ],
)
def test_what_has_no_equal_is_answered(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(LeapError) as error:
        read_recipe(written(tmp_path, line))
    assert words in str(error.value)


def test_a_flag_without_an_equal_is_answered(workspace: Path) -> None:
    done = run_script(FINETUNE, "--recipe", TINY_RECIPE, "--hub_model_id", "me/mine", root=workspace)
    assert done.returncode == 2
    assert "error: --hub_model_id: unknown key; after training: scripts/training/export_model.py" in done.stderr
    assert given(f"--{RESUME}") == {}
    assert read_recipe(REPOSITORY / "configs" / "recipes" / "demo.yaml", given(f"--{RESUME}", "true"))


def test_adams_values_are_the_recipes() -> None:
    model = torch.nn.Linear(2, 2)
    values = {"model_name_or_path": "m", "train_file": "t", "bf16": True}
    for optim in ("adamw_torch", "adamw_bf16_stochastic"):
        own = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
        for given_values, wanted in (({}, ((0.9, 0.999), 1e-8)), (own, ((0.8, 0.95), 1e-6))):
            recipe = Recipe.model_validate({**values, "optim": optim, **given_values})
            group = make_optimizer(recipe, model).param_groups[0]
            assert (group["betas"], group["eps"]) == wanted


@pytest.mark.parametrize("page", ["training.md", "training_zh.md"])
def test_the_documents_show_every_alias(page: str) -> None:
    rows = [line for line in (REPOSITORY / "docs" / page).read_text().splitlines() if line.startswith("| `")]
    wanted = [
        f"| `{name}` | {alias.tools} | `{alias.key}`{f' ({alias.meaning})' if alias.meaning else ''} |"
        for name, alias in ALIASES.items()
    ]
    assert [row for row in rows if row in wanted] == wanted


@pytest.mark.parametrize("tool", TOOLS)
def test_common_flags_of_a_tool_are_ours_or_answered(tool: str) -> None:
    known = {*Recipe.model_fields, *ALIASES, *ANSWERS}
    assert [name for name in FLAGS[tool] if name not in known] == []


def test_an_alias_is_a_name_of_its_tool() -> None:
    for name, alias in ALIASES.items():
        for tool in alias.tools.split(", "):
            assert name in FLAGS[tool.partition(" (")[0]], f"{tool} has no {name}"
