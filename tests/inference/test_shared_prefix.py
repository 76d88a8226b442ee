"""An opening that is read once changes no response, whatever stands behind it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engine import SIZE, requests, responses

from leap.inference.hf import HfEngine
from leap.inference.prepare import Prepared
from leap.inference.protocol import Decoding, Request
from leap.records.training import Message, TextPart

__all__ = ["requests"]  # a fixture


@contextmanager
def prompts_read(engine: HfEngine) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of all that the model reads which is more than one new token."""
    read: list[tuple[int, ...]] = []

    def note(module: torch.nn.Module, args: object, kwargs: dict) -> None:
        if kwargs["inputs_embeds"].shape[1] > 1:
            read.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    hook = engine._generation._model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    yield read
    hook.remove()


def asked(request: Request, text: str, images: int = 2) -> Request:
    """The same request with another text after the images, and the first of them alone."""
    parts = request.messages[0].parts()
    kept = [part for part in parts if part.type == "text"][:1] + [p for p in parts if p.type == "image"][:images]
    message = Message(role="user", content=[*kept, TextPart(type="text", text=text)])
    return replace(request, key=(*request.key, text, str(images)), messages=(message,), images=request.images[:images])


def test_every_batch_reads_what_is_its_own(model: Path, requests: list[Request]) -> None:
    requests = requests[:5]
    expected = responses(HfEngine(model, SIZE, batch_size=1), requests)
    engine = HfEngine(model, SIZE, batch_size=3)
    with prompts_read(engine) as read:
        assert responses(engine, requests) == expected
        engine._compiled = True  # the fixed cache, whose code is the same without a compiler
        assert responses(engine, requests) == expected
        assert responses(engine, requests[:1]) == {requests[0].key: expected[requests[0].key]}
    (rows, opening), *batches = read
    assert (rows, opening > 100) == (1, True)
    longest = max(response.prompt_tokens or 0 for response in expected.values())
    assert len(batches) == 2 + 2 + 1
    assert all(tokens <= longest - opening for _, tokens in batches)


def test_batches_of_text_and_of_fewer_images(model: Path, requests: list[Request]) -> None:
    mixed = [
        asked(request, text * number, images)
        for request in requests[:1]
        for images in (0, 1, 2)
        for number, text in ((1, "Put it away."), (9, "Look again, then open the drawer. "))
    ]
    expected = responses(HfEngine(model, SIZE, batch_size=1), mixed)
    assert len({response.text for response in expected.values()}) > 2
    for size in (2, 6):
        assert responses(HfEngine(model, SIZE, batch_size=size), mixed) == expected


def test_other_weights_read_it_anew(model: Path, requests: list[Request]) -> None:
    engine, requests = HfEngine(model, SIZE, batch_size=3), requests[:3]
    before = responses(engine, requests)
    with torch.no_grad():
        for layer in engine._generation._model.model.language_model.layers:
            layer.mlp.down_proj.weight.mul_(-3)
    engine.free_memory()
    changed = responses(engine, requests)
    assert changed != before
    engine.free_memory()  # a prompt by itself shares nothing
    assert changed == {key: one for request in requests for key, one in responses(engine, [request]).items()}


@pytest.fixture(scope="module")
def engine(model: Path) -> HfEngine:
    return HfEngine(model, SIZE, batch_size=4)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    opening=st.integers(0, 80),
    own=st.lists(st.lists(st.integers(20, 200), min_size=1, max_size=30), min_size=1, max_size=4),
    fixed=st.booleans(),
)
def test_any_prompts(engine: HfEngine, opening: int, own: Sequence[list[int]], fixed: bool) -> None:
    """Openings that are shorter than worth it, equal prompts, one that is the opening of another."""
    first = [50 + (7 * index) % 100 for index in range(opening)]
    batch = [Prepared((str(index),), [*first, *ids]) for index, ids in enumerate(own)]
    generation, decoding = engine._generation, Decoding(max_new_tokens=4, min_new_tokens=4)
    found = generation.compiled(batch, decoding, 4) if fixed else generation.plain(batch, decoding)
    generation.forget()
    assert found == [generation.plain([one], decoding)[0] for one in batch]
