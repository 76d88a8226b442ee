"""What is tried to make a run fit its GPU: little, smaller each time, and shown."""

import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leap.data.batch_plan import BatchPlan, Cost
from leap.errors import LeapError
from leap.training import memory_plan
from leap.training.memory_plan import MemoryPlan

# Qwen3-VL-2B's shape
CONFIG = SimpleNamespace(
    text_config=SimpleNamespace(
        hidden_size=2048, num_attention_heads=16, num_key_value_heads=8, head_dim=128, intermediate_size=6144,
        num_hidden_layers=28, vocab_size=151_936,
    ),
    vision_config=SimpleNamespace(hidden_size=1024, intermediate_size=4096, depth=24),
)  # fmt: skip


def plan(rows: int = 36) -> BatchPlan:
    """Rows of one image of 300 tokens and texts of unlike lengths."""
    rng = np.random.default_rng(0)
    tokens = 300 + rng.integers(60, 500, 400).astype(np.int32)
    cost = Cost(tokens, np.full(400, 1200, np.int32), rng.integers(20, 80, 400).astype(np.int32), 0.3)
    return BatchPlan(cost, rows, 100, seed=0, micro_batches=6)


def needed(found: BatchPlan, one: MemoryPlan) -> float:
    """Bytes of a plan's heaviest micro-batch, by the estimate of each token, patch and label token."""
    each, cost = memory_plan.Activations.of(CONFIG, one.checkpointing), found.cost
    counts = ((each.token, cost.tokens), (each.patch, cost.patches), (each.label, cost.label_tokens))
    row = sum(size * count.astype(float) for size, count in counts)
    divided = replace(found, micro_batches=one.micro_batches)
    return max(row[micro_batch].sum() for step in range(11) for micro_batch in divided.divide(step))


@pytest.mark.parametrize("free", [2e9, 1e10, 6e10])
def test_the_estimate_of_the_real_shape_uses_what_there_is(free: float) -> None:
    """A row of it has more bytes than an int32 holds."""
    first = memory_plan.estimate(plan(), CONFIG, free)
    assert 0.6 * free < needed(plan(), first) < free


@pytest.mark.parametrize(("free", "level"), [(5e9, "all"), (1.2e10, "vision"), (5e10, "none")])
def test_more_is_recomputed_before_micro_batches_are_short(free: float, level: str) -> None:
    """5 GB is what a card of 24 GB leaves beside bf16 states of the 2B: a few short micro-batches without."""
    assert memory_plan.estimate(plan(), CONFIG, free).checkpointing == level


@settings(derandomize=True, max_examples=5)
@given(free=st.floats(2e9, 6e10), wrong=st.floats(0.8, 3))
def test_few_attempts_find_what_runs(free: float, wrong: float) -> None:
    """On a device where everything takes `wrong` times its estimate."""
    found, tried = plan(), []

    def runs(one: MemoryPlan) -> bool:
        tried.append(one)
        return wrong * needed(found, one) <= free

    try:
        chosen = memory_plan.first_that_runs(memory_plan.candidates(found, CONFIG, free, memory_plan.LEVELS), runs)
    except LeapError:
        assert wrong * needed(found, MemoryPlan(36, "all")) > free
        return
    assert chosen == tried[-1]
    assert len(tried) <= memory_plan._ATTEMPTS + 1
    assert len(set(tried)) == len(tried)
    assert len(tried) == 1 or wrong * needed(found, tried[-2]) > free


def test_every_attempt_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    fits = memory_plan.candidates(plan(), CONFIG, 5e9, memory_plan.LEVELS)
    with pytest.raises(LeapError, match="one sample does not fit"):
        memory_plan.first_that_runs(fits, lambda one: False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(fits)
    assert fits[-1] == MemoryPlan(36, "all")
    assert lines[-1].startswith("tried       36 micro-batches, checkpointing all: does not fit (")


def test_requested_micro_batches_stay_as_long_as_recomputing_helps() -> None:
    assert memory_plan.requested(plan(), 10, memory_plan.LEVELS) == [
        MemoryPlan(10, "none"), MemoryPlan(10, "vision"), MemoryPlan(10, "all"), MemoryPlan(20, "all"), MemoryPlan(36,
        "all"),
    ]  # fmt: skip
    assert memory_plan.requested(plan(), 36, ("none",)) == [MemoryPlan(36, "none")]


class Greedy(torch.nn.Module):
    """It says that memory is full after computing much."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, room: int, kept: list[Any]) -> torch.Tensor:
        self.gradient = self.weight.grad
        activations = self.weight * torch.ones(room)
        kept.append(weakref.ref(activations))
        if room > 10:
            raise torch.OutOfMemoryError("full")
        return activations.sum()


def test_a_failed_attempt_leaves_nothing_behind() -> None:
    model, kept = Greedy(), []
    assert not memory_plan._runs(model, {"room": 20, "kept": kept}, 8, torch.float32, kept=True)
    assert kept[0]() is None
    assert memory_plan._runs(model, {"room": 10, "kept": kept}, 8, torch.float32, kept=False)
    assert model.weight.grad is None


@pytest.mark.parametrize("kept", [True, False])
def test_a_micro_batch_is_tried_beside_the_gradients_of_those_before_it(kept: bool) -> None:
    model = Greedy()
    assert memory_plan._runs(model, {"room": 10, "kept": []}, 8, torch.float32, kept)
    assert (model.gradient is not None) == kept
    assert model.weight.grad is None


def test_choosing_tries_a_model_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded model is not: its layers would compute nothing twice, and no checkpointing would ever help."""
    part = torch.nn.Module()
    model = SimpleNamespace(
        config=CONFIG, modules=list, model=SimpleNamespace(
            visual=SimpleNamespace(blocks=[part]), language_model=SimpleNamespace(layers=[torch.nn.Module()]),
        ), train=lambda: part.train(), parameters=lambda: iter([torch.zeros(1)]),
    )  # fmt: skip
    part.eval()
    monkeypatch.setattr(memory_plan, "_free_bytes", lambda *_: 1e10)
    monkeypatch.setattr(memory_plan, "_runs", lambda *_: part.training and part.gradient_checkpointing)
    recipe: Any = SimpleNamespace(gradient_checkpointing=None, tokens_per_micro_batch=None)
    chosen = memory_plan.choose(recipe, model, plan(), lambda _: {}, 1e9, torch.device("cuda"), torch.bfloat16)
    assert chosen.checkpointing != "none"
