"""Attention within segments: the kernels of a GPU compute what plain attention does, segment by segment."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from leap.models.qwen3_vl.varlen_attention import Segments, _plain, attend, has_flash, has_flash4

LENGTHS = ((1064, 1064, 1064), (7, 300, 1, 1064, 128, 65))


def parts(lengths: tuple[int, ...], heads: int, key_heads: int, width: int) -> tuple[torch.Tensor, ...]:
    """Query, key and value [tokens, heads, width] that large values make sensitive to every key."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(lengths)
    return tuple(2 * torch.randn(tokens, count, width, generator=generator) for count in (heads, key_heads, key_heads))


def ends(lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@pytest.mark.parametrize("causal", [True, False])
def test_plain_attention_sees_its_own_segment_alone(causal: bool) -> None:
    lengths = LENGTHS[1]
    query, key, value = parts(lengths, 4, 2, 16)
    found = attend(query, key, value, Segments(ends(lengths), lengths, max(lengths)), causal, 0.25)
    of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    seen = of[:, None] == of
    if causal:
        seen &= torch.ones_like(seen).tril()
    scores = torch.einsum("qhw,khw->hqk", query, key.repeat_interleave(2, 1)) * 0.25
    shares = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    expected = torch.einsum("hqk,khw->qhw", shares, value.repeat_interleave(2, 1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def scores_of(query: torch.Tensor, key: torch.Tensor, cuts: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """[heads, queries, keys], minus infinity where a query does not see a key."""
    place = torch.arange(len(query))
    of = torch.searchsorted(cuts, place, right=True)
    seen = (of[:, None] == of) & (place[:, None] >= place if causal else True)
    scores = torch.einsum("qhw,khw->hqk", query, key.repeat_interleave(query.shape[1] // key.shape[1], 1)) * scale
    return scores.masked_fill(~seen, -torch.inf)


class Formulas(ModuleType):
    """In place of FlashAttention 4's kernels, which need a GPU: the textbook's formulas, called as they are called."""

    @staticmethod
    def _flash_attn_fwd(
        query: Any, key: Any, value: Any, *, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
        softmax_scale: float, causal: bool, return_lse: bool,
    ) -> Any:  # fmt: skip
        scores = scores_of(query, key, cu_seqlens_q, causal, softmax_scale)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        return torch.einsum("hqk,khw->qhw", scores.softmax(-1), value), scores.logsumexp(-1), None

    @staticmethod
    def _flash_attn_bwd(
        query: Any, key: Any, value: Any, found: Any, grad: Any, sums: Any, *, softmax_scale: float, causal: bool,
        cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
    ) -> Any:  # fmt: skip
        shared = query.shape[1] // key.shape[1]
        shares = (scores_of(query, key, cu_seqlens_q, causal, softmax_scale) - sums[..., None]).exp()
        of_shares = torch.einsum("qhw,khw->hqk", grad, value.repeat_interleave(shared, 1))
        of_scores = shares * (of_shares - (grad * found).sum(-1).T[..., None]) * softmax_scale
        of_query = torch.einsum("hqk,khw->qhw", of_scores, key.repeat_interleave(shared, 1))
        of_key, of_value = (torch.einsum("hqk,qhw->khw", *pair) for pair in ((of_scores, query), (shares, grad)))
        return of_query, *(one.unflatten(1, (-1, shared)).sum(2) for one in (of_key, of_value)), None


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_4_is_asked_for_the_same(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator around its kernels, in a compiler's graph, too: values and gradients."""
    monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", Formulas("interface"))
    lengths, scale = (7, 30, 1), 0.25
    inputs = [part.requires_grad_() for part in parts(lengths, 4, 2, 16)]
    expected = attend(*inputs, Segments(ends(lengths), lengths, 30), causal, scale)
    outward = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad(expected, inputs, outward)
    segments = Segments(ends(lengths), None, 30, flash4=True)
    for ask in (attend, torch.compile(attend, backend="aot_eager", fullgraph=True)):
        found = ask(*inputs, segments, causal, scale)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        for one, other in zip(torch.autograd.grad(found, inputs, outward), wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(
    not (torch.cuda.is_available() and has_flash(torch.device("cuda"), torch.bfloat16)),
    reason="needs a GPU with flash attention",
)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(16, 8, 128), (16, 16, 64)])  # Qwen3-VL-2B's
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kernel", ["flash", "equal", "flash4", "efficient"])
def test_kernels_of_a_gpu_compute_what_plain_attention_does(
    lengths: tuple[int, ...], heads: int, key_heads: int, width: int, causal: bool, kernel: str
) -> None:
    """Values and gradients, within the dtype's rounding: "efficient" is float32's kernel, "equal" the batched one for
    images of one size."""
    equal, flash4, dtype = kernel == "equal", kernel == "flash4", torch.bfloat16
    if kernel == "efficient":
        dtype = torch.float32
    if flash4 and not has_flash4(torch.device("cuda"), torch.bfloat16):
        pytest.skip("FlashAttention 4 is not there")
    if equal and (len(set(lengths)) > 1 or causal or heads != key_heads):
        pytest.skip("the batched kernel is for images of one size")
    scale = width**-0.5
    inputs = [part.cuda().to(dtype).requires_grad_() for part in parts(lengths, heads, key_heads, width)]
    exact = [part.detach().float().requires_grad_() for part in inputs]
    cuda_ends, longest = ends(lengths).cuda(), max(lengths)
    on_host = lengths if kernel == "efficient" else None
    found = attend(*inputs, Segments(cuda_ends, on_host, longest, lengths[0] if equal else 0, flash4), causal, scale)
    expected = _plain(*exact, lengths, causal, scale)
    outward = torch.randn(expected.shape, generator=torch.Generator("cuda").manual_seed(1), device="cuda")
    found.backward(outward.to(dtype))
    expected.backward(outward.to(dtype).float())
    for one, other in [(found, expected), *((i.grad, e.grad) for i, e in zip(inputs, exact, strict=True))]:
        error = (one.float() - other).abs()
        assert error.max() < (1e-4 if kernel == "efficient" else 0.05) * other.abs().max()
        assert error.mean() < 0.005 * other.abs().mean().clamp(min=other.abs().max() / 50)
    # A kernel that is told too short a longest segment leaves the rest of it out: the test above would see that.
    if kernel == "flash":
        short = attend(*inputs, Segments(cuda_ends, None, longest - 40), causal, scale)
        assert not ((short.float() - expected).abs() < 0.05 * expected.abs().max()).all()


def test_without_a_gpu_there_is_no_flash_attention() -> None:
    assert not has_flash(torch.device("cpu"), torch.bfloat16)
    assert not has_flash(torch.device("cuda"), torch.float32)
    assert not has_flash4(torch.device("cpu"), torch.bfloat16)
