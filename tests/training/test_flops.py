"""FLOPs counted from a configuration are those that PyTorch counts while the model runs forward and backward."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from test_recipes import tiny_recipe
from torch.utils.flop_counter import FlopCounterMode

from leap.hardware import peak_flops
from leap.models.lora import add_adapters
from leap.training.dry_run import _trained
from leap.training.flops import Trained, causal_attention, sample_flops
from leap.training.trainable_model import plan_training

TOKENS, LABELS, GRIDS = 60, 11, ((1, 4, 6), (1, 4, 4))
PATCHES = [h * w for _, h, w in GRIDS]
LORA = ("q_proj", "k_proj", "v_proj", "down_proj")


@pytest.fixture
def loaded(model: Path) -> Any:
    from leap.models.loading import load_model

    return load_model(model, "float32", attention="eager")


def counted(model: Any) -> float:
    """One sample's FLOPs, by operator: eager attention is products of batches, everything else products of matrices."""
    config = model.config
    images = sum(PATCHES) // 4
    ids = torch.full((1, TOKENS), 20)
    ids[0, 3 : 3 + images] = config.image_token_id
    ids[0, 3 + PATCHES[0] // 4] = 21  # the images stand apart
    ids[0, 3 + images] = config.image_token_id
    pixels = torch.randn(sum(PATCHES), 3 * 2 * 16 * 16)
    kinds = (ids == config.image_token_id).int()
    with FlopCounterMode(display=False) as counter:
        output = model(
            input_ids=ids,
            mm_token_type_ids=kinds,
            pixel_values=pixels,
            image_grid_thw=torch.tensor(GRIDS),
            logits_to_keep=torch.arange(LABELS),
            use_cache=False,
        )
        output.logits.sum().backward()
    return counter.get_total_flops()


def expected(model: Any, trained: Trained) -> float:
    """PyTorch counts a decoder's attention in full: what lies above the diagonal comes on top."""
    config = model.config.to_dict()
    causal = causal_attention(config["text_config"], TOKENS) * 3
    full = causal * 2 * TOKENS / (TOKENS + 1)
    return sample_flops(config, TOKENS, LABELS, PATCHES, trained).total - causal + full


# What the counter adds or leaves out: rotary tables are products of batches, of a row each.
CLOSE = 2e-3


def freeze(model: Any, trained: Trained) -> None:
    for name, parameter in model.named_parameters():
        part = "projector" if "merger" in name else "vision" if "visual" in name else "llm"
        parameter.requires_grad_(getattr(trained, part))


@pytest.mark.parametrize(
    "trained",
    [
        Trained(),
        Trained(vision=False),
        Trained(vision=False, projector=False),
        Trained(projector=False),
        Trained(llm=False),
        Trained(vision=False, llm=False),
    ],
    ids=str,
)
def test_agrees_with_pytorchs_counter(loaded: Any, trained: Trained) -> None:
    freeze(loaded, trained)
    assert counted(loaded) == pytest.approx(expected(loaded, trained), rel=CLOSE)


def test_lora_agrees_with_pytorchs_counter(loaded: Any) -> None:
    from peft import LoraConfig, get_peft_model

    trained = Trained(False, False, False, lora_rank=8, lora_targets=LORA)
    adapted = get_peft_model(loaded, LoraConfig(r=8, target_modules=list(LORA)))
    assert counted(adapted) == pytest.approx(expected(loaded, trained), rel=CLOSE)


@pytest.mark.parametrize("parts", [["vision"], ["projector"], ["vision", "llm"]], ids=str)
def test_adapters_before_the_decoder_send_gradients_through_it(loaded: Any, model: Path, parts: list[str]) -> None:
    fitting = {"vision": "attn.qkv", "projector": "linear_fc1", "llm": "self_attn.q_proj"}
    ends = [fitting[part] for part in parts]
    recipe = tiny_recipe(finetuning="lora", lora_r=2, lora_parts=parts, lora_target_modules=ends)
    add_adapters(loaded, recipe)
    assert counted(loaded) == pytest.approx(expected(loaded, _trained(recipe, plan_training(recipe, model))), rel=0.05)


def test_a_sample_of_the_full_size() -> None:
    """An image of 640x480 (1,200 patches, 300 tokens) and 210 tokens of text: the vision tower is 38 %."""
    config = json.loads((REPOSITORY / "benchmarks" / "qwen3_vl_2b.json").read_text())
    found = sample_flops(config, tokens=510, label_tokens=100, patches=[1200])
    assert found.total == pytest.approx(7.38e12, rel=0.01)
    assert found.vision / found.total == pytest.approx(0.38, abs=0.01)
    lora = sample_flops(config, 510, 100, [1200], Trained(False, False, False, 16, ("q_proj", "v_proj")))
    assert found.total / 2 < lora.total < found.total * 2 / 3  # a third is forward; the tower has nothing else
    assert sample_flops(config, 510, 100, []).vision == 0


def test_peaks_go_by_the_drivers_name() -> None:
    names = ["NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA L40S", "NVIDIA L4", "NVIDIA GeForce RTX 4090"]
    assert [peak_flops(name) for name in names] == [989e12, 756e12, 362e12, 121e12, 165e12]
    assert peak_flops("x86_64 CPU, 2 threads") is None
