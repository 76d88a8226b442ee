"""What a recipe may choose: which parts learn and how fast, LoRA and its kin, schedules, when to stop."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, TINY_RECIPE, run_script
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_families import one_thread
from tiny_models import FAMILIES, save_tiny_model
from transformers import get_scheduler

from leap.data.batch_plan import _epoch_order
from leap.data.collator import Collator
from leap.data.dataset import TrainingSet
from leap.data.image import ImageSize, resolve_image
from leap.errors import LeapError
from leap.inference.hf import HfEngine
from leap.inference.protocol import Decoding, Request
from leap.models.checkpoints import ADAPTER, adapter_base
from leap.models.loading import load_model
from leap.records.training import TrainingSample
from leap.training import fine_tune as runs
from leap.training.dry_run import describe
from leap.training.overrides import add_recipe_flags, recipe_overrides
from leap.training.recipe import Recipe, read_recipe
from leap.training.schedule import check_schedule
from leap.training.stopping import best_step, has_stopped
from leap.training.trainable_model import load_trainable, plan_training

RECIPES = REPOSITORY / "configs" / "recipes"
FINETUNE = "scripts/training/run-finetuning.py"
TINY = {
    "per_device_train_batch_size": 2,
    "max_train_samples": 8,
    "max_steps": 2,
    "save_steps": 2,
    "warmup_steps": 0,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "image_tokens_min": 4,
    "image_tokens_max": 9,
    "report_to": "none",
    "output_dir": "output/tiny",  # not output/, where other files' tests leave a run of theirs
}
__all__ = ["one_thread"]  # a fixture that every test here uses
LORA = {"finetuning": "lora", "lora_r": 4, "lora_alpha": 8}


def tiny_recipe(**values: Any) -> Recipe:
    return read_recipe(Path(TINY_RECIPE), {**TINY, **values})


def train(workspace: Path, name: str, **values: Any) -> Path:
    """The last checkpoint of a run with these values."""
    checked = runs.check_run(tiny_recipe(output_dir=f"output/{name}", **values), workspace, workspace / ".cache")
    return runs.train(checked, REPOSITORY, workspace / "logs")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that runs train from now on, as they are in memory."""
    models: list[Any] = []

    def keep(*arguments: Any) -> Any:
        models.append(load(*arguments))
        return models[-1]

    load = runs.load_trainable
    monkeypatch.setattr(runs, "load_trainable", keep)
    return models


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def part(name: str) -> str:
    if "visual.merger" in name or "deepstack_merger" in name:
        return "projector"
    return "vision" if "visual." in name else "llm"


@pytest.mark.parametrize("frozen", ["vision", "projector", "llm"])
def test_a_frozen_part_stays_and_all_else_learns(workspace: Path, model: Path, frozen: str) -> None:
    """Deepstack's mergers are the projector's."""
    before = weights(model)
    after = weights(train(workspace, f"frozen_{frozen}", max_steps=1, **{f"freeze_{frozen}": True}))
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {name for name in before if part(name) == frozen}
    assert any("deepstack_merger_list" in name for name in before)


def test_samples_without_images_teach_a_frozen_llm_nothing(workspace: Path, model: Path, tmp_path: Path) -> None:
    """A step of such samples changes no weight, and a file of them is refused."""
    plain = json.dumps({"messages": [{"role": "user", "content": "What now?"}], "target": {"steps": "1) Wait."}})
    seen = (workspace / "data" / "train_demo.jsonl").read_text().splitlines()[0]
    values = {"train_file": str(tmp_path / "samples.jsonl"), "weight_decay": 0.0, "freeze_llm": True, "max_steps": 1}
    (tmp_path / "samples.jsonl").write_text(f"{plain}\n")
    with pytest.raises(LeapError, match="no sample has an image, so that nothing would learn"):
        train(workspace, "no_images", **values)
    (tmp_path / "samples.jsonl").write_text(f"{seen}\n{plain}\n")
    second_first = next(seed for seed in range(9) if _epoch_order(2, seed, 0)[0] == 1)
    folder = train(workspace, "no_images", seed=second_first, per_device_train_batch_size=1, **values)
    before, after = weights(model), weights(folder)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("values", [{"freeze_vision": True}, LORA], ids=["frozen", "lora"])
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_a_frozen_vision_tower_computes_no_gradients(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, family: str, values: dict[str, Any]
) -> None:
    """Nor with checkpointing, for which the library asks for gradients at the inputs of many families' towers."""
    folder = save_tiny_model(family, tmp_path / family, ["words"] * 3)
    needed = []
    load = runs.load_trainable

    def watched(*arguments: Any) -> Any:
        model = load(*arguments)
        model.model.visual.blocks[-1].register_forward_hook(lambda _m, _i, out: needed.append(out.requires_grad))
        return model

    monkeypatch.setattr(runs, "load_trainable", watched)
    size = {"max_train_samples": 1, "per_device_train_batch_size": 1, "max_steps": 1, "model_max_length": 9000}
    where = {"model_name_or_path": str(folder), "gradient_checkpointing": True}
    train(workspace, f"gradients_{family}_{len(values)}", **where, **size, **values)
    assert needed
    assert not any(needed)


def test_each_part_learns_at_its_own_rate(workspace: Path, model: Path) -> None:
    """Adam's first step moves a weight by the rate, whatever its gradient."""
    rates = {"vision": 1e-5, "projector": 1e-4, "llm": 1e-3}
    values = {"vision_learning_rate": 1e-5, "projector_learning_rate": 1e-4, "weight_decay": 0.0, "max_grad_norm": 0.0}
    before, after = weights(model), weights(train(workspace, "rates", max_steps=1, **values))
    for kind, rate in rates.items():
        moved = max((after[name] - before[name]).abs().max().item() for name in before if part(name) == kind)
        assert moved == pytest.approx(rate, rel=0.02)


@pytest.mark.slow
def test_equal_rates_change_nothing(workspace: Path) -> None:
    """Splitting the Trainer's groups keeps its weight decay: on everything but biases and norms."""
    plain = weights(train(workspace, "rates_none", weight_decay=0.1))
    split = weights(train(workspace, "rates_equal", weight_decay=0.1, vision_learning_rate=1e-3))
    assert all(torch.equal(plain[name], split[name]) for name in plain)


def logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**batch).logits


def questions(workspace: Path) -> list[tuple[Request, str]]:
    """The training samples as requests, with their answers."""
    samples = runs.check_run(tiny_recipe(), workspace, workspace / ".cache").train
    found = []
    for place in samples.places:
        sample = TrainingSample.model_validate_json(samples.table[int(place)]["sample"])
        images = tuple(resolve_image(image, samples.image_roots) for image in sample.images())
        found.append((Request((str(place),), tuple(sample.messages), images), sample.target.steps))
    return found


def batch_of(workspace: Path) -> dict[str, Any]:
    checked = runs.check_run(tiny_recipe(), workspace, workspace / ".cache")
    samples = TrainingSet(checked.train, checked.chat, checked.encoder)
    pad = checked.processor.tokenizer.pad_token_id
    batch = Collator(pad, checked.chat.image_token_id, checked.encoder)([samples[0], samples[1]])
    del batch["labels"]
    return batch


@pytest.mark.parametrize("kind", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_adapters_learn_are_saved_and_load_to_the_same_logits(
    workspace: Path, model: Path, kind: dict[str, Any], trained: list[Any]
) -> None:
    name = "lora_" + "".join(kind)
    # Not packed, so that the model in memory can be asked as a loaded one.
    folder = train(workspace, name, lora_target_modules=["q_proj", "down_proj"], packing=False, **LORA, **kind)
    assert type(trained[0]).__name__ == "Qwen3VLForConditionalGeneration"
    saved = load_file(folder / "adapter_model.safetensors")
    assert not (folder / "model.safetensors").exists()
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    pairs = 2 * 2  # layers x modules
    assert len(saved) == pairs * (3 if kind.get("use_dora") else 2)
    start = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    assert saved[f"{start}.lora_A.weight"].shape == (4, 192)
    assert saved[f"{start}.lora_B.weight"].shape == (192, 4)
    assert all(weight.abs().max() > 0 for weight in saved.values())  # lora_B starts at zero
    settings = json.loads((folder / ADAPTER).read_text())
    assert settings["base_model_name_or_path"] == "models/tiny"
    assert {name.removesuffix(".lora_A.weight") for name in saved if "lora_A" in name} == {
        f"base_model.model.{name}" for name in settings["target_modules"]
    }

    base = adapter_base(folder, workspace)
    assert base == model
    batch = batch_of(workspace)
    reloaded = logits(load_model(folder, "float32", base=base), batch)
    assert torch.allclose(reloaded, logits(trained[0], batch), atol=1e-5)
    assert not torch.allclose(reloaded, logits(load_model(model, "float32"), batch), atol=1e-3)


def test_an_adapter_is_refused_on_another_base(workspace: Path, model: Path, tmp_path: Path) -> None:
    folder = train(workspace, "lora_base", max_steps=1, **LORA)
    other = save_tiny_model("qwen3_vl", tmp_path / "other", ["words"] * 3)
    for refuse in (lambda: adapter_base(folder, workspace, other), lambda: load_model(folder, "float32", base=other)):
        with pytest.raises(LeapError, match="was trained on other weights"):
            refuse()
    moved = Path(shutil.copytree(model, tmp_path / "moved"))
    assert adapter_base(folder, workspace, moved) == moved


def test_adapters_of_a_resumed_run_go_on_learning(workspace: Path) -> None:
    """To the very weights of an unbroken run, dropout's random numbers included."""
    values = {**LORA, "lora_dropout": 0.2, "max_steps": 4}
    whole = train(workspace, "lora_whole", **values)
    second = whole.with_name("checkpoint-2")
    broken = Path(shutil.copytree(whole.parent, workspace / "output" / "lora_broken"))
    shutil.rmtree(broken / "checkpoint-4")
    resumed = train(workspace, "lora_broken", **values)
    assert resumed.name == "checkpoint-4"
    three = [load_file(folder / "adapter_model.safetensors") for folder in (whole, resumed, second)]
    assert all(torch.equal(three[0][name], three[1][name]) for name in three[0])
    assert any(not torch.equal(three[0][name], three[2][name]) for name in three[0])


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_adapters_learn_beside_quantized_weights(workspace: Path, bits: str, trained: list[Any]) -> None:
    pytest.importorskip("bitsandbytes")
    folder = train(workspace, f"qlora_{bits}", quantization=bits, bf16=True, **LORA)
    saved = load_file(folder / "adapter_model.safetensors")
    assert all(weight.abs().max() > 0 and weight.dtype == torch.float32 for weight in saved.values())
    quantized = trained[0].model.language_model.layers[0].self_attn.q_proj.base_layer.weight
    assert quantized.dtype in (torch.uint8, torch.int8)
    assert load_model(folder, "float32", base=adapter_base(folder, workspace)) is not None


def test_quantization_without_its_library_is_reported(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(LeapError, match="needs bitsandbytes"):
        train(workspace, "qlora_none", quantization="4bit", **LORA)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lora_target_modules": ["qkv"]}, "qkv fits no linear layer of lora_parts=llm; 3 layers of vision fit"),
        ({"lora_target_modules": ["q_prj"]}, "there are: down_proj, gate_proj, k_proj"),
        ({"lora_parts": ["vision"], "lora_target_modules": "q_proj"}, "there are: linear_fc1, linear_fc2, proj, qkv"),
        ({"lora_target_modules": ["lm_head"]}, "lm_head fits no linear layer of lora_parts=llm; there are: down_proj"),
    ],
)
def test_targets_that_fit_nothing_are_reported_before_training(model: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(LeapError) as error:
        plan_training(tiny_recipe(**LORA, **values), model)
    assert words in str(error.value)


def linear_layers(model: Any) -> set[str]:
    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return layers - {"lm_head"}


def everywhere(model: Any) -> dict[str, Any]:
    """Recipe values that put an adapter on every layer, by the last word of its name."""
    ends = {re.search(r"[a-z]\w*(\.\d+)?$", name)[0] for name in linear_layers(model)}  # mlp.0 is one, and q_proj
    return {**LORA, "lora_target_modules": sorted(ends), "lora_parts": ["vision", "projector", "llm"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_that_are_announced_are_adapted_and_no_other(family: str, tmp_path: Path) -> None:
    """In some families the patch embedding, a convolution, ends as linear layers do."""
    folder = save_tiny_model(family, tmp_path / family, ["words"] * 3)
    plain = load_model(folder, "float32")
    recipe = tiny_recipe(model_name_or_path=str(folder), **everywhere(plain))
    announced, _ = plan_training(recipe, folder).lines
    adapted = {name for name, module in load_trainable(recipe, folder).named_modules() if hasattr(module, "lora_A")}
    assert adapted == linear_layers(plain)
    assert f"on {len(adapted)} layers" in announced


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_every_adapter_learns(family: str, workspace: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path / family, ["words"] * 3)
    layers = linear_layers(load_model(folder, "float32"))
    values = {**everywhere(load_model(folder, "float32")), "lora_dropout": 0.0, "model_name_or_path": str(folder)}
    size = {"max_train_samples": 2, "model_max_length": 9000}
    saved = load_file(train(workspace, f"every_{family}", **values, **size) / "adapter_model.safetensors")
    assert len(saved) == 2 * len(layers)
    assert not [name for name, weight in saved.items() if not weight.abs().max() > 0]  # lora_B starts at zero


@pytest.mark.parametrize("family", ["internvl", "smolvlm"])
def test_families_that_read_images_in_another_way_are_refused(family: str, workspace: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path / family, ["words"] * 3)
    with pytest.raises(LeapError, match=f"not for {family}"):
        runs.check_run(tiny_recipe(model_name_or_path=str(folder)), workspace, workspace / ".cache")


def test_adapters_of_a_tower_leave_the_others_alone(workspace: Path) -> None:
    """linear_fc1 is a layer of the vision blocks and of the mergers."""
    values = {"lora_parts": "projector", "lora_target_modules": "linear_fc1"}
    folder = train(workspace, "lora_projector", max_steps=1, **LORA, **values)
    saved = load_file(folder / "adapter_model.safetensors")
    assert len(saved) == 2 * 2  # the last merger and one of deepstack's
    assert all("merger" in name for name in saved)
    load_model(folder, "float32", base=adapter_base(folder, workspace))


def test_an_adapter_is_no_base(workspace: Path) -> None:
    folder = train(workspace, "lora_no_base", max_steps=1, **LORA)
    with pytest.raises(LeapError, match="merge it first"):
        plan_training(tiny_recipe(), folder)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "internvl", "smolvlm"])
def test_other_families_parts_are_known(family: str, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path / family, ["words"] * 3)
    (all_of_it,) = plan_training(tiny_recipe(), folder).lines
    (some,) = plan_training(tiny_recipe(freeze_vision=True, projector_learning_rate=1e-4), folder).lines
    for part in ("vision", "projector", "llm"):
        assert f"{part} " in all_of_it
    assert "vision" not in some
    message, _ = plan_training(tiny_recipe(**LORA), folder).lines
    assert "llm: 2 x q_proj" in message


def test_an_unknown_familys_parts_are_refused(model: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.llava import LlavaConfig

    words = AutoConfig.from_pretrained(model).text_config.vocab_size
    folder = tmp_path / "llava"
    text = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": words}  # fmt: skip
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    AutoModelForImageTextToText.from_config(LlavaConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    assert plan_training(tiny_recipe(), folder)
    for values in ({"freeze_llm": True}, {"llm_learning_rate": 1e-4}, LORA):
        with pytest.raises(LeapError, match="components of a llava model are not known"):
            plan_training(tiny_recipe(**values), folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"freeze_vision": True, "freeze_projector": True, "freeze_llm": True}, "leave nothing to train"),
        ({"freeze_vision": True, "vision_learning_rate": 1e-5}, "nothing of the vision is trained"),
        ({**LORA, "vision_learning_rate": 1e-5}, "nothing of the vision is trained"),
        ({**LORA, "freeze_llm": True}, "freeze_llm: LoRA freezes every component"),
        ({"quantization": "4bit"}, "quantization needs finetuning: lora"),
        ({"use_dora": True}, "use_dora needs finetuning: lora"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5, "lr_scheduler_type": "linear"}, "exclude each other"),
        ({"warmup_steps": 5}, "take constant_with_warmup"),
        ({"lr_scheduler_kwargs": {"min_lr": 0.1}}, "takes no lr_scheduler_kwargs"),
        ({"early_stopping_patience": 2}, "needs a val_file"),
        ({"lora_parts": ["head"]}, "lora_parts"),
    ],
)
def test_values_that_exclude_each_other_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(LeapError, match=words):
        tiny_recipe(**values)


def test_the_seeds_lora_presets() -> None:
    found = {
        name: (r.lora_r, r.lora_alpha, r.lora_dropout, len(r.lora_target_modules), r.output_dir)
        for name in ("light", "standard", "full", "aggressive")
        if (r := read_recipe(RECIPES / f"lora-{name}.yaml")).finetuning == "lora"
    }
    assert found == {
        "light": (8, 16, 0.1, 2, "output/lora_light"),
        "standard": (16, 32, 0.05, 4, "output/lora_standard"),
        "full": (32, 64, 0.05, 7, "output/lora_full"),
        "aggressive": (64, 128, 0.05, 7, "output/lora_aggressive"),
    }
    recipe = read_recipe(RECIPES / "lora-light.yaml")
    assert (recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps) == (4, 9)
    assert (recipe.learning_rate, recipe.warmup_steps, recipe.max_steps, recipe.save_total_limit) == (
        2e-4,
        800,
        7000,
        30,
    )
    assert recipe.weight_decay == read_recipe(RECIPES / "full.yaml").weight_decay


@pytest.mark.parametrize(
    ("base", "words"),
    [("nothing", "there is no such recipe; there are: first, mine"), ("first", "has a base itself")],
)
def test_a_recipes_base_is_one_level(tmp_path: Path, base: str, words: str) -> None:
    (tmp_path / "first.yaml").write_text("base: mine\n")
    (tmp_path / "mine.yaml").write_text(f"base: {base}\nseed: 1\n")
    with pytest.raises(LeapError, match=words):
        read_recipe(tmp_path / "mine.yaml")


SCHEDULES: dict[str, dict[str, Any] | None] = {
    "linear": None,
    "cosine": {"num_cycles": 0.5},
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "constant": None,
    "constant_with_warmup": None,
    "inverse_sqrt": {"timescale": 4},
    "polynomial": {"power": 2.0, "lr_end": 1e-6},
    "warmup_stable_decay": {"num_decay_steps": 2},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_fits(name: str) -> None:
    ratio = None if name == "constant" else 0.3
    check_schedule(tiny_recipe(lr_scheduler_type=name, lr_scheduler_kwargs=SCHEDULES[name], warmup_ratio=ratio), 5)


@pytest.mark.parametrize("small", ["1e-6", "0.000001", "1.0e-6", '"1e-6"'])
def test_a_schedules_small_number_may_be_written_in_any_way(tmp_path: Path, small: str) -> None:
    kwargs = f"{{min_lr: {small}, num_cycles: 0.5}}"
    path = tmp_path / "mine.yaml"
    path.write_text(
        "model_name_or_path: m\ntrain_file: t.jsonl\nlr_scheduler_type: cosine_with_min_lr\n"
        f"lr_scheduler_kwargs: {kwargs}\n"
    )
    recipe = read_recipe(path)
    assert recipe.lr_scheduler_kwargs == {"min_lr": 1e-6, "num_cycles": 0.5}
    parser = argparse.ArgumentParser()
    add_recipe_flags(parser)
    for words in (kwargs, str(recipe.lr_scheduler_kwargs)):  # a user's, and an ablation's
        given = recipe_overrides(parser.parse_args(["--lr_scheduler_kwargs", words]))
        assert read_recipe(path, given) == recipe
    check_schedule(recipe, 5)
    kept = tiny_recipe(lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs={"decay_type": "cosine"})
    assert kept.lr_scheduler_kwargs == {"decay_type": "cosine"}


def test_a_schedule_is_followed(workspace: Path) -> None:
    values = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.5}}
    size = {"max_steps": 5, "save_steps": 5, "per_device_train_batch_size": 1, "warmup_ratio": 0.3}
    folder = train(workspace, "schedule", **values, **size, **LORA)
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in log if "loss" in entry]
    # two steps of warm-up (0.3 x 5, rounded up), then half a cosine from 1e-3 to 5e-4 over three
    assert rates == pytest.approx([0, 5e-4, 1e-3, 8.75e-4, 6.25e-4])


@pytest.mark.parametrize(
    ("name", "own"),
    [("warmup_stable_decay", None), ("cosine_with_min_lr", None), ("linear", {"power": 2}), ("cosine", {"cycles": 1})],
)
def test_a_schedules_own_values_are_checked_first(workspace: Path, name: str, own: dict[str, Any] | None) -> None:
    recipe = tiny_recipe(lr_scheduler_type=name, lr_scheduler_kwargs=own, output_dir="output/schedule_wrong")
    with pytest.raises(LeapError, match=f"does not fit lr_scheduler_type={name}"):
        runs.check_run(recipe, workspace, workspace / ".cache")


@pytest.mark.parametrize(
    ("report_to", "words"), [("wandb", "is not installed here"), ("tensorbord", "is unknown; there are: none")]
)
def test_a_report_that_cannot_be_made_is_reported(workspace: Path, report_to: str, words: str) -> None:
    if report_to == "wandb":
        pytest.importorskip("tensorboard")
        with pytest.raises(ImportError):
            __import__("wandb")
    with pytest.raises(LeapError, match=words):
        runs.check_run(tiny_recipe(report_to=f"tensorboard,{report_to}"), workspace, workspace / ".cache")


def validation_log(folder: Path) -> list[float]:
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["eval_loss"] for entry in log if "eval_loss" in entry]


VALIDATION = {"val_file": "data/test_demo.jsonl", "eval_steps": 2}


def test_the_validation_loss_weighs_every_label_token_alike(workspace: Path) -> None:
    """The set is one of plans and short answers, in batches of unlike numbers of tokens, the last one smaller."""
    folder = train(workspace, "validation", per_device_eval_batch_size=2, **VALIDATION)
    other = train(workspace, "validation_1", per_device_eval_batch_size=1, **VALIDATION)
    checked = runs.check_run(tiny_recipe(output_dir="output/validation", **VALIDATION), workspace, workspace / ".cache")
    assert checked.validation is not None
    samples = TrainingSet(checked.validation, checked.chat, checked.encoder)
    collate = Collator(checked.processor.tokenizer.pad_token_id, checked.chat.image_token_id, checked.encoder)
    model, losses = load_model(folder, "float32").eval(), []
    for index in range(len(samples)):
        batch = collate([samples[index]])
        labels = batch.pop("labels")[0, 1:]
        log = logits(model, batch)[0, :-1].log_softmax(-1)[labels != -100]
        losses += (-log.gather(1, labels[labels != -100][:, None])).flatten().tolist()
    expected = sum(losses) / len(losses)
    assert validation_log(folder) == pytest.approx([expected], abs=1e-5)
    assert validation_log(other) == pytest.approx([expected], abs=1e-5)


@pytest.mark.slow
def test_two_processes_train_adapters_to_the_validation_loss_of_one(workspace: Path) -> None:
    """The samples do not divide evenly, so that some are seen twice."""
    common = {
        **VALIDATION,
        **LORA,
        "lora_dropout": 0.0,
        "max_steps": 1,
        "eval_steps": 1,
        "save_steps": 1,
        "max_eval_samples": 3,
    }
    one = train(workspace, "validation_one", **{**common, "per_device_train_batch_size": 2})
    values = {**TINY, **common, "per_device_train_batch_size": 1, "output_dir": "output/validation_two"}
    flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "LEAP_ROOT": str(workspace), "OMP_NUM_THREADS": "1"}
    script = [str(REPOSITORY / FINETUNE), "--recipe", TINY_RECIPE, "--per_device_eval_batch_size", "2"]
    done = subprocess.run(
        [*command, *script, *flags], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    two = workspace / "output" / "validation_two" / "checkpoint-1"
    assert validation_log(two) == pytest.approx(validation_log(one), abs=1e-4)
    assert adapter_base(two, workspace) == adapter_base(one, workspace)


@pytest.mark.slow
def test_an_evaluation_changes_nothing_of_what_is_learned(workspace: Path) -> None:
    values = {**LORA, "lora_dropout": 0.3, "max_steps": 3, "save_steps": 3}
    plain = load_file(train(workspace, "unwatched", **values) / "adapter_model.safetensors")
    watched = train(workspace, "watched", **values, val_file="data/test_demo.jsonl", eval_steps=1)
    found = load_file(watched / "adapter_model.safetensors")
    assert len(validation_log(watched)) == 3
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def log_of(*losses: float) -> list[dict[str, Any]]:
    return [{"step": 10 * index, "eval_loss": loss} for index, loss in enumerate(losses, start=1)]


def test_when_to_stop_and_which_is_best() -> None:
    assert not has_stopped(log_of(3, 2, 2.5), 2)
    assert has_stopped(log_of(3, 2, 2.5, 2), 2)  # as low is not lower
    assert not has_stopped(log_of(3, 2, 2.5, 2), None)
    assert not has_stopped([{"step": 1, "loss": 2.0}], 1)
    assert best_step(log_of(3, 2, 2.5, 2)) == 20
    assert best_step(log_of(3, 2, 2.5), among=[10, 30]) == 30
    assert best_step(log_of(3, 2), among=[5]) is None
    assert best_step(log_of(float("nan"), 3, 2)) == 30
    assert not has_stopped(log_of(float("nan"), 3, 2.5, 2), 3)
    assert not has_stopped(log_of(float("nan"), float("inf")), 1)


def test_validation_losses_of_other_samples_are_not_compared(workspace: Path) -> None:
    values = {"max_steps": 4, "save_steps": 2, "val_file": "data/test_demo.jsonl", "eval_steps": 2}
    last = train(workspace, "other_rows", **values)
    assert len(validation_log(last)) == 2
    shutil.rmtree(last)
    again = train(workspace, "other_rows", **values, max_eval_samples=1)
    log = json.loads((again / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "eval_loss_of_other_rows" in entry] == [2]
    assert len(validation_log(again)) == 1


def test_a_recipe_is_read_as_it_is_meant(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: demo\neval_strategy: no\n")
    shutil.copy(RECIPES / "demo.yaml", tmp_path)
    assert read_recipe(file).eval_strategy == "no"
    file.write_text("base: demo\nlearning_rate: 1.0e-5\nseed: 1\nlearning_rate: 1.0e-3\n")
    with pytest.raises(LeapError, match=r"mine.yaml:4: .*learning_rate stands there twice"):
        read_recipe(file)
    with pytest.raises(LeapError, match="seed"):
        tiny_recipe(seed=2**32)


def test_a_run_stops_early_and_keeps_its_best_checkpoint(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"learning_rate": 0.3, "val_file": "data/test_demo.jsonl", "eval_steps": 1, "save_steps": 20,
              "max_steps": 20, "early_stopping_patience": 2, "save_total_limit": 1}  # fmt: skip
    last = train(workspace, "early", **values)
    losses = validation_log(last)
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 2 < 20
    assert sorted(folder.name for folder in last.parent.glob("checkpoint-*")) == [f"checkpoint-{best}", last.name]
    assert f"checkpoint-{best}" in capsys.readouterr().err
    recipe = tiny_recipe(output_dir="output/early", **values)
    assert runs.check_run(recipe, workspace, workspace / ".cache").finished
    more_patient = tiny_recipe(output_dir="output/early", **{**values, "early_stopping_patience": 5})
    assert not runs.check_run(more_patient, workspace, workspace / ".cache").finished


@pytest.mark.parametrize(("least", "most"), [(4, 4), (16, 20)])
def test_images_have_the_recipes_tokens_when_they_reach_the_model(
    workspace: Path, least: int, most: int, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    load = runs.load_trainable

    def watched(*arguments: Any) -> Any:
        model = load(*arguments)

        def look(block: Any, arguments: Any, given: dict[str, Any], output: Any) -> None:
            seen.extend(patches // 4 for patches in given["segments"].lengths)

        model.model.visual.blocks[0].register_forward_hook(look, with_kwargs=True)
        return model

    monkeypatch.setattr(runs, "load_trainable", watched)
    train(workspace, f"images_{least}", max_steps=1, image_tokens_min=least, image_tokens_max=most)
    assert seen
    assert all(least <= tokens <= most for tokens in seen)


def test_an_older_runs_checkpoint_is_still_its_own(workspace: Path) -> None:
    """Its marker lacks the keys that recipes did not have yet."""
    folder = train(workspace, "older", max_steps=1)
    for marker in (folder / "leap_run.json", folder.parent / "leap_run.json"):
        values = json.loads(marker.read_text())
        for key in ("finetuning", "freeze_vision", "lora_r", "lr_scheduler_kwargs"):
            del values["recipe"][key]
        marker.write_text(json.dumps(values))
    assert (
        runs.check_run(tiny_recipe(output_dir="output/older", max_steps=1), workspace, workspace / ".cache").resume
        == folder
    )
    with pytest.raises(LeapError, match="freeze_vision"):
        runs.check_run(
            tiny_recipe(output_dir="output/older", max_steps=1, freeze_vision=True), workspace, workspace / ".cache"
        )


def test_the_plan_says_what_learns(workspace: Path) -> None:
    options = (
        f"--recipe {TINY_RECIPE} --finetuning lora --lora_target_modules q_proj,v_proj --lora_r 8 --dry_run".split()
    )
    planned = run_script(FINETUNE, *options, "--output_dir", "output/planned", root=workspace)
    assert planned.returncode == 0, planned.stderr
    assert "LoRA r=8 alpha=32 (alpha / r) on 4 layers (llm: 2 x q_proj, 2 x v_proj)" in planned.stdout
    assert "parameters are trainable" in planned.stdout


@pytest.mark.slow
def test_eight_samples_are_learned_by_heart(workspace: Path) -> None:
    """To a loss near zero, and then the model generates exactly these answers."""
    values = {"max_steps": 80, "save_steps": 80, "per_device_train_batch_size": 8, "learning_rate": 2e-3,
              "lr_scheduler_type": "cosine", "warmup_steps": 10, "weight_decay": 0.0}  # fmt: skip
    folder = train(workspace, "by_heart", **values)
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert [entry["loss"] for entry in log if "loss" in entry][-1] < 0.01
    asked = questions(workspace)
    assert len({answer for _, answer in asked}) == 8
    requests = [request for request, _ in asked]
    engine = HfEngine(folder, ImageSize(4, 9), workers=0)
    found = {answer.key: answer.text for answer in engine.responses(requests, Decoding())}
    assert [found[request.key] for request in requests] == [answer for _, answer in asked]


def schedule_problem(steps: int, **values: Any) -> str:
    with pytest.raises(LeapError) as error:
        check_schedule(tiny_recipe(**values), steps)
    return str(error.value)


@pytest.mark.parametrize(
    ("values", "steps", "words"),
    [
        ({"warmup_steps": 800}, 60, "warmup_steps=800: the run has 60 steps"),
        ({"warmup_steps": 60}, 60, "warmup_steps=60: the run has 60 steps"),
        ({"warmup_ratio": 0.99}, 60, "warmup_ratio=0.99: the run has 60 steps"),
        ({"warmup_ratio": 0.99}, 60, "give fewer (--warmup_ratio 0.1) or more steps"),
        ({"warmup_ratio": 0.99}, 3, "give fewer (--warmup_ratio 0) or more steps"),
        ({"warmup_steps": 1}, 1, "would end before it reaches learning_rate=0.001"),
    ],
)
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "constant"])
def test_a_warm_up_that_is_never_over_is_refused(name: str, values: dict[str, Any], steps: int, words: str) -> None:
    kwargs = SCHEDULES[name]
    assert words in schedule_problem(steps, lr_scheduler_type=name, lr_scheduler_kwargs=kwargs, **values)


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("cosine_with_min_lr", {"min_lr": 0.01}, "its rate rises to"),
        ("cosine_with_min_lr", {"min_lr_rate": 2.0}, "its rate rises to"),
        ("cosine_with_min_lr", {"min_lr": -0.001}, "its rate is 0 in"),
        ("warmup_stable_decay", {"num_decay_steps": 95}, "after the warm-up its rate is"),
        ("warmup_stable_decay", {"num_decay_steps": 5, "num_stable_steps": 10}, "its rate is 0 in"),
        ("inverse_sqrt", {"timescale": 0}, "does not fit lr_scheduler_type=inverse_sqrt"),
        ("inverse_sqrt", {"timescale": -3}, "does not fit lr_scheduler_type=inverse_sqrt"),
        ("polynomial", {"lr_end": -0.001}, "its rate falls to -"),
        ("polynomial", {"power": -1.0}, "its rate rises to"),
        ("polynomial", {"power": "two"}, "does not fit lr_scheduler_type=polynomial"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(name: str, kwargs: dict[str, Any], words: str) -> None:
    assert words in schedule_problem(100, lr_scheduler_type=name, lr_scheduler_kwargs=kwargs, warmup_steps=10)


@given(
    name=st.sampled_from([name for name in SCHEDULES if name != "constant"]),
    steps=st.integers(3, 400),
    warmup=st.integers(0, 500),
)
def test_a_schedule_that_is_accepted_reaches_its_rate_and_never_more(name: str, steps: int, warmup: int) -> None:
    recipe = tiny_recipe(lr_scheduler_type=name, lr_scheduler_kwargs=SCHEDULES[name], warmup_steps=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.learning_rate)
    scheduler = get_scheduler(name, optimizer, warmup, steps, dict(SCHEDULES[name] or {}))
    rates = scheduler.get_last_lr()
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        rates += scheduler.get_last_lr()
    try:
        check_schedule(recipe, steps)
    except LeapError:
        assert max(rates) < recipe.learning_rate * (1 - 1e-9)
    else:
        assert max(rates) == pytest.approx(recipe.learning_rate, rel=1e-9)


def test_early_stopping_that_can_never_end_a_run_is_refused(workspace: Path) -> None:
    values = {"val_file": "data/test_demo.jsonl", "output_dir": "output/no_stop", "max_steps": 20, "eval_steps": 5}
    with pytest.raises(LeapError, match="early_stopping_patience=3: with a validation every 5 of 20 steps"):
        runs.check_run(tiny_recipe(early_stopping_patience=3, **values), workspace, workspace / ".cache")
    runs.check_run(tiny_recipe(early_stopping_patience=2, **values), workspace, workspace / ".cache")
    values = {**values, "eval_strategy": "epoch", "max_steps": None, "num_train_epochs": 2}
    with pytest.raises(LeapError, match="early_stopping_patience=1: with a validation every 4 of 8 steps"):
        runs.check_run(tiny_recipe(early_stopping_patience=1, **values), workspace, workspace / ".cache")


def validated(workspace: Path, lines: list[str], name: str, **values: Any) -> runs.Run:
    path = workspace / "data" / f"{name}.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    recipe = tiny_recipe(val_file=f"data/{name}.jsonl", output_dir="output/never", **values)
    return runs.check_run(recipe, workspace, workspace / ".cache")


@pytest.fixture
def lines(workspace: Path) -> list[str]:
    return (workspace / "data" / "train_demo.jsonl").read_text().splitlines()


def written_otherwise(line: str) -> str:
    """The same sample: keys in another order, other notes, an image's path by another way."""
    sample = json.loads(line)
    changed = {"target": sample["target"], "messages": sample["messages"], "note": "mine"}
    return json.dumps(changed, indent=None).replace('"images/', '"../data/images/')


@pytest.mark.parametrize("values", [{}, {"max_train_samples": None}, {"max_eval_samples": 2}], ids=str)
def test_the_training_file_is_no_validation_file(workspace: Path, lines: list[str], values: dict[str, Any]) -> None:
    """Nor is a copy of it under another name."""
    recipe = tiny_recipe(val_file="data/train_demo.jsonl", output_dir="output/never", **values)
    with pytest.raises(LeapError, match=r"val_file: .*train_demo.jsonl: it is the training file"):
        runs.check_run(recipe, workspace, workspace / ".cache")
    with pytest.raises(LeapError, match=r"val_file: .*copy.jsonl: it is the training file, .*train_demo.jsonl"):
        validated(workspace, lines, "copy", **values)


def test_the_same_samples_in_another_order_are_no_validation_file(workspace: Path, lines: list[str]) -> None:
    again = [written_otherwise(line) for line in reversed(lines)]
    with pytest.raises(LeapError, match="it holds the samples of the training file"):
        validated(workspace, again, "again", max_train_samples=None)


def test_validation_samples_that_are_trained_on_are_counted(workspace: Path, lines: list[str]) -> None:
    validation = (workspace / "data" / "test_demo.jsonl").read_text().splitlines()
    other_answer = json.loads(lines[0])
    other_answer["target"]["steps"] += " Then wait."
    mixed = [*validation, written_otherwise(lines[1]), lines[3], lines[3], lines[20], json.dumps(other_answer)]
    run = validated(workspace, mixed, "mixed")  # of the training file, the first eight are used
    assert run.shared == 3
    assert "; 3 of them are training samples too" in describe(run)
    assert validated(workspace, mixed, "mixed", max_train_samples=None).shared == 4
    assert validated(workspace, validation, "apart").shared == 0
    assert "training samples too" not in describe(validated(workspace, validation, "apart"))
    assert validated(workspace, lines[:4], "some").shared == 4  # a part of it may be watched, and is told
