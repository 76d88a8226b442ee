"""Attention within segments: the kernels of a GPU compute what plain attention does, segment by segment."""

import pytest
import torch

from leap.models.qwen3_vl.varlen_attention import Segments, attend, has_flash

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


@pytest.mark.skipif(
    not (torch.cuda.is_available() and has_flash(torch.device("cuda"), torch.bfloat16)),
    reason="needs a GPU with flash attention",
)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(16, 8, 128), (16, 16, 64)])  # Qwen3-VL-2B's
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("equal", [True, False])
def test_kernels_of_a_gpu_compute_what_plain_attention_does(
    lengths: tuple[int, ...], heads: int, key_heads: int, width: int, causal: bool, equal: bool
) -> None:
    """Values and gradients, within bfloat16's rounding; `equal` is the batched kernel for images of one size."""
    if equal and (len(set(lengths)) > 1 or causal or heads != key_heads):
        pytest.skip("the batched kernel is for images of one size")
    scale = width**-0.5
    inputs = [part.cuda().bfloat16().requires_grad_() for part in parts(lengths, heads, key_heads, width)]
    exact = [part.detach().float().requires_grad_() for part in inputs]
    cuda_ends, longest = ends(lengths).cuda(), max(lengths)
    found = attend(*inputs, Segments(cuda_ends, None, longest, lengths[0] if equal else 0), causal, scale)
    expected = attend(*exact, Segments(cuda_ends, lengths, longest), causal, scale)
    outward = torch.randn(expected.shape, generator=torch.Generator("cuda").manual_seed(1), device="cuda")
    found.backward(outward.bfloat16())
    expected.backward(outward.bfloat16().float())
    for one, other in [(found, expected), *((i.grad, e.grad) for i, e in zip(inputs, exact, strict=True))]:
        error = (one.float() - other).abs()
        assert error.max() < 0.05 * other.abs().max()
        assert error.mean() < 0.005 * other.abs().mean().clamp(min=other.abs().max() / 50)
    # A kernel that is told too short a longest segment leaves the rest of it out: the test above would see that.
    if not equal:
        short = attend(*inputs, Segments(cuda_ends, None, longest - 40), causal, scale)
        assert not ((short.float() - expected).abs() < 0.05 * expected.abs().max()).all()


def test_without_a_gpu_there_is_no_flash_attention() -> None:
    assert not has_flash(torch.device("cpu"), torch.bfloat16)
    assert not has_flash(torch.device("cuda"), torch.float32)
