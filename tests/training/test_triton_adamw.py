"""AdamW's own kernels against PyTorch's: on a GPU, or anywhere else by Triton's interpreter."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, run_script_apart
from test_recipes import tiny_recipe, train, weights

from leap.training import optimizers

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((48, 1000), (300, 40), (64,), (7,))  # more than one program, one, a part of one; sizes that are no multiple


@pytest.fixture(autouse=True, scope="module")
def _interpreter() -> Any:
    """The kernel is defined when its module is first imported: within a test of this file, without a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        yield


def groups(made: list[torch.Tensor]) -> list[dict[str, Any]]:
    """Of copies of these weights: one that decays, and three that learn faster and do not."""
    copies = [torch.nn.Parameter(tensor.clone()) for tensor in made]
    return [{"params": copies[:1], "weight_decay": 0.1}, {"params": copies[1:], "weight_decay": 0.0, "lr": 3e-3}]


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:3]], ids=["any size", "sizes of 16"])
def test_the_kernel_does_what_pytorchs_does(shapes: tuple[tuple[int, ...], ...]) -> None:
    """Weights and moments, clipped and not; weights without a gradient stay and do not count the step."""
    from leap.training.triton_adamw import TritonAdamW

    generator = torch.Generator(DEVICE).manual_seed(0)
    made = [torch.randn(shape, device=DEVICE, generator=generator) for shape in shapes]
    theirs = torch.optim.AdamW(groups(made), lr=1e-2, betas=(0.8, 0.99), fused=True)
    ours = TritonAdamW(groups(made), lr=1e-2, betas=(0.8, 0.99))
    pairs = [
        pair for a, b in zip(theirs.param_groups, ours.param_groups, strict=True)
        for pair in zip(a["params"], b["params"], strict=True)
    ]  # fmt: skip
    for step in range(4):
        for their, our in pairs:
            if step != 2 or their.dim() > 1:
                their.grad = torch.randn(their.shape, device=DEVICE, generator=generator)
                our.grad = their.grad.clone()
        if step:
            norm = torch.nn.utils.clip_grad_norm_([their for their, _ in pairs], 1.0)
            torch.testing.assert_close(ours.clip(1.0), norm)
        for optimizer in (theirs, ours):
            optimizer.step()
            optimizer.zero_grad()
    for their, our in pairs:
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-6)
        assert theirs.state[their]["step"] == ours.state[our]["step"] == (4 if their.dim() > 1 else 3)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(ours.state[our][name], theirs.state[their][name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("weights_dtype", "grads_dtype"), [("bfloat16", "bfloat16"), ("float32", "bfloat16")])
@pytest.mark.parametrize("key", [5, -1, 2**31 - 1])
def test_the_kernel_rounds_as_pytorch_does(weights_dtype: str, grads_dtype: str, key: int) -> None:
    """Random bits included; a GPU rounds a product and a sum once, and so now and then else."""
    from leap.training.stochastic_adamw import _update_by_turns
    from leap.training.triton_stochastic import update_together

    generator = torch.Generator(DEVICE).manual_seed(0)
    dtypes = [getattr(torch, name) for name in (weights_dtype, grads_dtype, "bfloat16", "bfloat16")]
    theirs = [
        [torch.rand(size, device=DEVICE, generator=generator).to(dtype) for dtype in dtypes] for size in (48_000, 64, 7)
    ]
    ours = [[part.clone() for part in parts] for parts in theirs]
    keys, numbers = [key, 7, 0], [0.9, 0.999, 1e-3, 0.999, 0.5, 1e-8]
    _update_by_turns(theirs, keys, numbers)
    update_together(ours, keys, numbers)
    for our, their in zip(ours, theirs, strict=True):
        for one, other in zip(our, their, strict=True):
            if one.dtype == torch.float32:
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
            else:
                assert (one != other).double().mean() <= (1e-3 if DEVICE == "cuda" else 0)


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which needs none: the interpreter knows neither types nor what a processor lacks."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    done = run_script_apart("tests/training/compile_kernels.py", root=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["_adamw", "_stochastic_adamw", "_stochastic_adamw"]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["PyTorch's", "ours"])
def test_a_run_goes_on_with_the_other(workspace: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """From a checkpoint of two steps, to the weights that PyTorch's alone comes to."""
    values = {"optim": "adamw_torch_fused", "max_steps": 4, "save_steps": 2, "max_grad_norm": 0.5}

    def with_kernel(has: bool) -> Path:
        monkeypatch.setattr(optimizers, "_has_kernel", lambda *_: has)
        return train(workspace, "fused", **values)

    with_kernel(first == "ours")
    shutil.rmtree(workspace / "output" / "fused" / "checkpoint-4")
    found = weights(with_kernel(first != "ours"))
    shutil.rmtree(workspace / "output" / "fused")
    for name, wanted in weights(with_kernel(False)).items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5)
    shutil.rmtree(workspace / "output" / "fused")


def test_where_it_cannot_be_pytorchs_own_is_taken() -> None:
    on_cpu = [torch.nn.Parameter(torch.zeros(3))]
    recipe = tiny_recipe(optim="adamw_torch_fused")
    assert type(optimizers.OPTIMIZERS[recipe.optim].make([{"params": on_cpu}], recipe)) is torch.optim.AdamW
