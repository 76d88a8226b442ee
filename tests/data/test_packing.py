"""Packed samples: the plan of a run's steps, and the same loss and gradients as padded samples."""

import json
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_RECIPE, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_training import FINETUNE, STEPS, losses

from leap.data import batch_plan
from leap.data.batch_plan import BatchPlan, Cost
from leap.data.chat_encoding import ChatFormat
from leap.data.collator import Collator
from leap.data.dataset import Sample, TrainingSet
from leap.data.image import ImageEncoder, ImageSize
from leap.data.packing import PackedCollator, PackedLayout
from leap.errors import LeapError
from leap.models.loading import load_model, load_processor
from leap.models.qwen3_vl import packed_forward
from leap.preparation.check.checked_dataset import check_training_file
from leap.records.training import ImagePart, Message, TextPart
from leap.training import memory_plan
from leap.training.batches import check_packing
from leap.training.loop import cross_entropy, summed_loss
from leap.training.recipe import read_recipe


def plan(indices: int, size: int, micro_batches: int = 1, world_size: int = 1, seed: int = 0) -> BatchPlan:
    rng = np.random.default_rng(indices)
    tokens = rng.integers(10, 600, indices).astype(np.int32)
    cost = Cost(tokens, 4 * tokens, rng.integers(1, 9, indices).astype(np.int32), 0.3)
    return BatchPlan(cost, size, 10_000, seed, micro_batches, world_size)


@settings(derandomize=True)
@given(
    indices=st.integers(1, 60), size=st.integers(1, 40), micro_batches=st.integers(1, 5), world_size=st.integers(1, 3),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_an_epoch_is_every_sample_once_however_it_is_divided(
    indices: int, size: int, micro_batches: int, world_size: int, seed: int
) -> None:
    one, many = plan(indices, size, seed=seed), plan(indices, size, micro_batches, world_size, seed)
    for epoch in range(2):
        steps = range(epoch * one.steps_per_epoch, (epoch + 1) * one.steps_per_epoch)
        assert sorted(sample for step in steps for sample in one.samples(step)) == list(range(indices))
        for step in steps:
            divided = [
                sample
                for rank in range(world_size)
                for index in range(micro_batches)
                for sample in many.micro_batch(step, index, rank)
            ]
            assert sorted(divided) == sorted(one.samples(step))
            assert many.label_tokens(step) == many.cost.label_tokens[divided].sum()
            assert one.samples_before(step + 1) - one.samples_before(step) == len(divided)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    found = plan(40, 40)
    orders = [found.samples(0).tolist(), found.samples(1).tolist(), plan(40, 40, seed=1).samples(0).tolist()]
    assert len(set(map(tuple, orders))) == 3


@settings(derandomize=True)
@given(size=st.integers(8, 60), micro_batches=st.integers(2, 6))
def test_micro_batches_differ_by_less_than_their_costliest_sample(size: int, micro_batches: int) -> None:
    found = plan(200, size, micro_batches)
    loads = [found.cost.total[micro_batch].sum() for micro_batch in found.divide(0)]
    assert max(loads) - min(loads) <= found.cost.total[found.samples(0)].max()


@settings(derandomize=True)
@given(
    indices=st.integers(1, 40), size=st.integers(1, 12), micro_batches=st.integers(1, 4), world_size=st.integers(1, 3),
    steps=st.integers(1, 9), seed=st.integers(0, 9),
)  # fmt: skip
def test_the_heaviest_micro_batch_of_all_steps_is_found(
    indices: int, size: int, micro_batches: int, world_size: int, steps: int, seed: int
) -> None:
    """By another weight than the one by which steps are divided, and in more steps than are dealt out at once."""
    found = replace(plan(indices, size, micro_batches, world_size, seed), steps=steps)
    weight = np.random.default_rng(seed).lognormal(size=indices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_plan, "_STEPS_AT_ONCE", 4)
        heaviest, most = found.heaviest(weight)
    expected = max(weight[micro_batch].sum() for step in range(steps) for micro_batch in found.divide(step))
    assert most == pytest.approx(expected)
    assert weight[heaviest].sum() == pytest.approx(expected)


def test_a_step_is_dealt_out_costliest_sample_first_to_the_list_with_least() -> None:
    found = plan(50, 20, micro_batches=3)
    lists: list[list[int]] = [[], [], []]
    for sample in sorted(found.samples(0).tolist(), key=lambda sample: -found.cost.total[sample]):
        min(lists, key=lambda indices: sum(found.cost.total[indices])).append(sample)
    assert found.divide(0) == lists


def test_long_answers_make_a_micro_batch_heavy_that_costs_little() -> None:
    """Each label token has a float of the whole vocabulary: memory that no arithmetic shows."""
    found = plan(400, 20, micro_batches=4)
    found.cost.label_tokens[found.samples(9_999)[0]] = 4_000
    config = SimpleNamespace(
        text_config=SimpleNamespace(
            hidden_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=32, intermediate_size=256,
            num_hidden_layers=4, vocab_size=150_000,
        ),
        vision_config=SimpleNamespace(hidden_size=64, intermediate_size=128, depth=4),
    )  # fmt: skip
    weight = memory_plan.Activations.of(config, "none").of_samples(found.cost)
    assert found.samples(9_999)[0] in found.heaviest(weight)[0]


@settings(derandomize=True, max_examples=5)
@given(free=st.floats(1e6, 1e9), world_size=st.integers(1, 3))
def test_what_is_estimated_to_fit_does_fit(free: float, world_size: int) -> None:
    config = SimpleNamespace(
        text_config=SimpleNamespace(
            hidden_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=32, intermediate_size=256,
            num_hidden_layers=4, vocab_size=500,
        ),
        vision_config=SimpleNamespace(hidden_size=64, intermediate_size=128, depth=4),
    )  # fmt: skip
    found = plan(90, 12 * world_size, world_size=world_size)
    try:
        chosen = memory_plan.estimate(found, config, free)
    except LeapError:
        smallest = memory_plan.Activations.of(config, "all")
        assert (smallest.token * found.cost.tokens).max() + (smallest.patch * found.cost.patches).max() > free / 2
        return
    each = memory_plan.Activations.of(config, chosen.checkpointing).of_samples(found.cost)
    divided = replace(found, micro_batches=chosen.micro_batches)
    heaviest = max(each[micro_batch].sum() for step in range(7) for micro_batch in divided.divide(step))
    assert heaviest <= free or chosen.micro_batches == 12


@pytest.fixture(scope="module")
def tools(model: Path) -> tuple[Any, ChatFormat, ImageEncoder]:
    processor = load_processor(model)
    return processor, ChatFormat(processor), ImageEncoder(processor, ImageSize(4, 16))


@pytest.fixture(scope="module")
def samples(tools: tuple[Any, ChatFormat, ImageEncoder]) -> list[Sample]:
    """Samples with one, two and no images, of unlike sizes, and answers of unlike lengths."""
    _, chat, encoder = tools
    rng = np.random.default_rng(0)
    found = []
    for index, count in enumerate((1, 2, 0, 3)):
        shapes = [(64 + 64 * number, 96 + 32 * index, 3) for number in range(count)]
        images = [Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)) for shape in shapes]
        parts = [TextPart(type="text", text="look " * (index + 1)), *[ImagePart(type="image", image="x")] * count]
        patches, grid = encoder.encode_bytes(images) if images else (None, None)
        message = Message(role="user", content=[*parts, TextPart(type="text", text="and plan")])
        encoded = chat.encode([message], "1) pick. " * (index + 1), encoder.tokens_of(grid) if count else [])
        found.append(Sample(encoded.input_ids, encoded.labels, patches, grid))
    return found


def test_no_image_of_a_micro_batch_is_larger_than_its_kernel_is_reported(
    model: Path, tools: tuple[Any, ChatFormat, ImageEncoder], tmp_path: Path
) -> None:
    """The processor rounds sides, so that a small image has more tokens than the most that was asked for."""
    processor, chat, _ = tools
    encoder = ImageEncoder(processor, ImageSize(16, 16))
    sizes = [(40, 60), (60, 40), (33, 90), (90, 31), (64, 64), (200, 120), (500, 90)]
    lines = []
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
        content = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": "Lift it."}]
        sample = {"id": str(number), "messages": [{"role": "user", "content": content}], "target": {"steps": "1) lift"}}
        lines.append(json.dumps(sample))
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    indices = check_training_file(tmp_path / "samples.jsonl", [tmp_path], chat, encoder, 4096, tmp_path / "cache")
    collate = PackedCollator(PackedLayout.of(load_model(model, "float32").config, indices, 1))
    data = TrainingSet(indices, chat, encoder)
    micro_batches = [collate([data[index]]) for index in range(len(sizes))]
    largest = max(micro_batch["image_lengths"][0] for micro_batch in micro_batches)
    assert largest > 16 * 4, "some image is larger than the bound"
    assert {micro_batch["largest_image"] for micro_batch in micro_batches} == {largest}


def rough_model(folder: Path) -> Any:
    """With large weights: in a fresh model all gradients are about zero."""
    model = load_model(folder, "float32").train()
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.15) if weight.ndim > 1 else None
    return model


def layout(model: Any, samples: list[Sample], world_size: int = 1) -> PackedLayout:
    images = np.array([0 if s.image_grid_thw is None else len(s.image_grid_thw) for s in samples])
    patches = np.array([0 if s.pixel_values is None else len(s.pixel_values) for s in samples])
    indices = SimpleNamespace(
        tokens=np.array([len(s.input_ids) for s in samples]),
        patches=patches,
        largest_image=patches,
        images=images,
    )
    return PackedLayout.of(model.config, indices, world_size)


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, atol=1e-5 * gradient.abs().max().item(), rtol=0, msg=name)


def test_packed_samples_have_the_loss_and_gradients_of_padded_ones(
    model: Path, tools: tuple[Any, ChatFormat, ImageEncoder], samples: list[Sample]
) -> None:
    processor, chat, encoder = tools
    trained = rough_model(model)
    padded = Collator(processor.tokenizer.pad_token_id, chat.image_token_id, encoder)(samples)
    expected = summed_loss(trained, padded)
    wanted = gradients(trained, expected)
    packed_forward.install(trained, encoder, compiled=False, cross_entropy=cross_entropy)
    micro_batch = PackedCollator(layout(trained, samples))(samples)
    for level in memory_plan.LEVELS:
        memory_plan.checkpoint(trained, level)
        loss = trained(**micro_batch)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert_same(wanted, gradients(trained, loss))


@pytest.mark.slow
def test_layers_are_compiled_once_for_micro_batches_of_any_length(
    model: Path,
    tools: tuple[Any, ChatFormat, ImageEncoder],
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, where attention is part of a layer's graph and the lengths of segments stay on the device."""
    from torch._dynamo.utils import counters

    def attend(query: Any, key: Any, value: Any, segments: Any, causal: bool, scale: float) -> torch.Tensor:
        place = torch.arange(query.shape[0])
        of = torch.searchsorted(segments.ends, place, right=True)
        seen = (of[:, None] == of) & (place[:, None] >= place if causal else True)
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
        scores = torch.einsum("qhw,khw->hqk", query, key) * scale
        return torch.einsum("hqk,khw->qhw", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)

    trained = rough_model(model)
    monkeypatch.setattr(packed_forward, "attend", attend)
    monkeypatch.setattr(packed_forward, "has_flash", lambda *_: True)
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    collate = PackedCollator(layout(trained, samples))
    packed_forward.install(trained, tools[2], True, cross_entropy)
    trained.leap_loss = lambda head, hidden, targets: cross_entropy(head(hidden), targets)
    torch._dynamo.reset()
    counters.clear()
    trained(**collate(samples[:1])).backward()
    compiled = counters["stats"]["unique_graphs"]
    assert compiled
    trained(**collate(samples)).backward()
    assert counters["stats"]["unique_graphs"] == compiled


def test_samples_of_a_micro_batch_do_not_see_each_other(
    model: Path, tools: tuple[Any, ChatFormat, ImageEncoder], samples: list[Sample]
) -> None:
    trained = rough_model(model)
    collate = PackedCollator(layout(trained, samples))
    packed_forward.install(trained, tools[2], compiled=False, cross_entropy=cross_entropy)
    with torch.no_grad():
        alone = sum(trained(**collate([sample])) for sample in samples)
        assert trained(**collate(samples)).item() == pytest.approx(alone.item(), rel=1e-5)
        assert trained(**collate(samples[::-1])).item() == pytest.approx(alone.item(), rel=1e-5)


def test_a_micro_batch_without_images_still_uses_every_weight(
    model: Path, tools: tuple[Any, ChatFormat, ImageEncoder], samples: list[Sample]
) -> None:
    """Else one process would wait for ever for the others' gradients."""
    trained = rough_model(model)
    packed_forward.install(trained, tools[2], compiled=False, cross_entropy=cross_entropy)
    collate = PackedCollator(layout(trained, samples, world_size=2))
    found = gradients(trained, trained(**collate([samples[2]])))
    assert all(not gradient.any() for name, gradient in found.items() if ".visual." in name)
    dummy = trained(**collate(samples, ignore_labels=True))
    assert dummy.item() == 0
    assert all(not gradient.any() for gradient in gradients(trained, dummy).values())


def test_a_padded_batch_without_images_can_use_every_weight(
    model: Path, tools: tuple[Any, ChatFormat, ImageEncoder], samples: list[Sample]
) -> None:
    """A sample more, of a dummy image without labels, changes nothing else."""
    processor, chat, encoder = tools
    trained = rough_model(model)
    found = []
    for dummy in (False, True):
        batch = Collator(processor.tokenizer.pad_token_id, chat.image_token_id, encoder, dummy)([samples[2]])
        loss = summed_loss(trained, batch)
        loss.backward()
        found.append((loss.item(), {name: weight.grad for name, weight in trained.named_parameters()}))
        trained.zero_grad()
    (loss, without), (same, with_dummy) = found
    assert same == pytest.approx(loss, rel=1e-5)
    for name, gradient in without.items():
        if gradient is None:
            assert ".visual." in name
            assert not with_dummy[name].any()
        else:
            torch.testing.assert_close(with_dummy[name], gradient, atol=1e-5 * gradient.abs().max().item(), rtol=0)


@pytest.mark.parametrize(
    ("values", "family", "reason"),
    [
        ({"packing": False, "tokens_per_micro_batch": 512}, "qwen3_vl", "tokens_per_micro_batch is .* packing=false"),
        ({"attn_implementation": "eager", "compile": True}, "qwen3_vl", "compile is .* attn_implementation=eager"),
        ({"compile": True}, "qwen2_vl", "compile is .* a qwen2_vl model"),
    ],
)
def test_values_for_packed_samples_are_refused_with_padded_ones(
    values: dict[str, Any], family: str, reason: str
) -> None:
    recipe = read_recipe(Path(TINY_RECIPE), values)
    with pytest.raises(LeapError, match=reason):
        check_packing(recipe, family)
    check_packing(recipe.model_copy(update={"tokens_per_micro_batch": None, "compile": False}), family)


@pytest.mark.slow
def test_packed_and_padded_runs_have_one_loss_curve(workspace: Path) -> None:
    steps = [*STEPS, "--max_steps", "50", "--save_steps", "50", "--per_device_train_batch_size", "4"]
    curves = []
    for packed_samples in ("true", "false"):
        output = f"output/curve-{packed_samples}"
        done = run_script(FINETUNE, *steps, "--packing", packed_samples, "--output_dir", output, root=workspace)
        assert done.returncode == 0, done.stderr
        curves.append(losses(done.stderr))
    assert len(curves[0]) == 50
    assert curves[0] == pytest.approx(curves[1], abs=2e-3)
