"""Small updates are kept: by float32 weights, and on average by bfloat16 weights that are rounded at random."""

import io
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_RECIPE, run_script
from safetensors.torch import load_file

from leap.training.stochastic_adamw import StochasticAdamW, _rounded

ULP = 2**-7  # the distance of bfloat16 numbers from 1 upwards


def drift(kind: type, weights: torch.Tensor, lr: float, steps: int) -> float:
    """How far weights of 1 move on average under a gradient whose sign stays: `lr` downwards a step, in float32."""
    parameter = torch.nn.Parameter(weights)
    optimizer = kind([parameter], lr=lr, weight_decay=0.0)
    parameter.grad = torch.ones_like(weights)
    for _ in range(steps):
        optimizer.step()
    return (parameter.detach().double() - 1).mean().item()


@pytest.mark.parametrize("lr", [1e-4 * ULP, 1.5e-5])
def test_small_updates_add_up(lr: float) -> None:
    """Both rates are too small for bfloat16 weights of 1, which need an update of an ULP / 4 downwards to move."""
    ones, steps = torch.ones(1 << 13), 1000
    full = drift(torch.optim.AdamW, ones.clone(), lr, steps)
    assert full == pytest.approx(-lr * steps, rel=0.02)
    assert drift(StochasticAdamW, ones.bfloat16(), lr, steps) == pytest.approx(full, rel=0.08)
    assert drift(torch.optim.AdamW, ones.bfloat16(), lr, 50) == 0


def test_rounding_is_right_on_average_and_exact_where_it_can_be() -> None:
    bits = torch.randint(-(2**31), 2**31, (1 << 16,), generator=torch.Generator().manual_seed(1)).int()
    for value in (1 + 0.3 * ULP, -(1 + 0.3 * ULP), 1e-12, 3e4 + 7):
        rounded = _rounded(torch.full((1 << 16,), value), bits)
        assert len(rounded.unique()) == 2
        assert rounded.double().mean().item() == pytest.approx(value, rel=1e-4)
    exact = torch.tensor([0.0, 1.0, -2.5, 96.0])
    assert torch.equal(_rounded(exact, bits[:4]).float(), exact)


def steps(optimizer: StochasticAdamW, parameters: list[torch.nn.Parameter], first: int, last: int) -> None:
    for step in range(first, last):
        for index, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(100 * step + index)
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


def made() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape).bfloat16()) for shape in ((64, 33), (7,))]


def test_a_continued_run_rounds_as_the_whole_one() -> None:
    whole, broken = made(), made()
    steps(StochasticAdamW(whole, lr=1e-3, seed=5), whole, 0, 6)
    optimizer = StochasticAdamW(broken, lr=1e-3, seed=5)
    steps(optimizer, broken, 0, 3)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "weights": broken}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    torch.manual_seed(99)  # nothing depends on the global state
    continued = saved["weights"]
    optimizer = StochasticAdamW(continued, lr=1e-3, seed=5)
    optimizer.load_state_dict(saved["optimizer"])
    assert optimizer.state[continued[0]]["exp_avg_sq"].dtype == torch.bfloat16
    steps(optimizer, continued, 3, 6)
    assert all(torch.equal(one, other) for one, other in zip(whole, continued, strict=True))
    other_seed = made()
    steps(StochasticAdamW(other_seed, lr=1e-3, seed=6), other_seed, 0, 6)
    assert not torch.equal(other_seed[0], whole[0])


def test_follows_adamw_with_weight_decay() -> None:
    """Float32 weights are rounded nowhere; only the moments are."""
    torch.manual_seed(0)
    start = torch.randn(500)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    options = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.95)}
    steps(StochasticAdamW([ours], **options), [ours], 0, 30)
    steps(torch.optim.AdamW([theirs], **options), [theirs], 0, 30)
    assert (ours - theirs).abs().mean() < 0.01 * (theirs - start).abs().mean()


def test_weights_are_updated_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = made(), made()
    steps(StochasticAdamW(whole), whole, 0, 2)
    monkeypatch.setattr("leap.training.stochastic_adamw._CHUNK", 500)
    steps(StochasticAdamW(cut), cut, 0, 2)
    assert all(torch.equal(one, other) for one, other in zip(whole, cut, strict=True))


@pytest.mark.slow
def test_a_run_trains_and_resumes_with_it(workspace: Path) -> None:
    """The second command goes on from step 2 and ends with the very weights of the first."""
    arguments = (
        f"--recipe {TINY_RECIPE} --optim adamw_bf16_stochastic --bf16 --max_steps 4 --save_steps 2 --warmup_steps 0 "
        "--per_device_train_batch_size 2 --image_tokens_min 4 --image_tokens_max 9 --output_dir output/stochastic"
    ).split()
    last = workspace / "output" / "stochastic" / "checkpoint-4"
    found = []
    for _ in range(2):
        done = run_script("scripts/training/run-finetuning.py", *arguments, root=workspace)
        assert done.returncode == 0, done.stderr
        found.append(load_file(last / "model.safetensors"))
        shutil.rmtree(last)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert {weights.dtype for weights in found[0].values()} == {torch.bfloat16}
