"""An image is seen once on a CPU, and no response is another for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_engine import SIZE, requests, responses
from test_engine_of_sweep import changed, in_turn, scaled

from leap.inference.hf import HfEngine
from leap.inference.protocol import Request

__all__ = ["requests"]  # a fixture


@contextmanager
def patches_seen(engine: HfEngine) -> Iterator[list[int]]:
    """How many go through the tower, at each of its runs."""
    seen: list[int] = []
    tower = engine._generation._model.model.visual
    hook = tower.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[0]))
    yield seen
    hook.remove()


def behind_the_tower(factor: float) -> Callable[[dict[str, torch.Tensor]], None]:
    """Other mergers and another decoder, as a run with `freeze_vision` leaves them."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if "merger" in name or name.endswith("down_proj.weight"):
                weights[name] = weights[name] * factor

    return change


def test_models_with_one_tower_see_once(model: Path, requests: list[Request], tmp_path: Path) -> None:
    folders = [
        model,
        changed(model, tmp_path / "behind", behind_the_tower(-2)),
        changed(model, tmp_path / "all", scaled(2)),
    ]
    expected = [responses(HfEngine(folder, SIZE, batch_size=5), requests) for folder in folders]
    assert all(one != other for one in expected for other in expected if one is not other)
    engine = HfEngine(model, SIZE, batch_size=5, keep=10**9)
    with patches_seen(engine) as seen:
        after = []
        for folder in (0, 1, 0, 2, 1):
            assert after == [] or engine.load(folders[folder], None) is None
            assert in_turn(engine, [folders[folder]], requests) == [expected[folder]]
            after.append(sum(seen))
    whole = after[0]
    assert after == [whole, whole, whole, 2 * whole, 3 * whole]


@pytest.mark.parametrize("keep", [0, 200_000])
def test_what_there_is_no_room_for_is_seen_again(model: Path, requests: list[Request], keep: int) -> None:
    engine = HfEngine(model, SIZE, batch_size=5, keep=keep)
    with patches_seen(engine) as seen:
        first, whole = responses(engine, requests), sum(seen)
        assert responses(engine, requests) == first
    assert sum(seen) == 2 * whole if keep == 0 else whole < sum(seen) < 2 * whole


def test_equal_images_of_a_batch_are_seen_once(model: Path, requests: list[Request]) -> None:
    alike = [replace(request, images=requests[0].images) for request in requests]
    expected = {key: one for request in alike for key, one in responses(HfEngine(model, SIZE), [request]).items()}
    engine = HfEngine(model, SIZE, batch_size=len(alike))
    with patches_seen(engine) as seen:
        assert responses(engine, alike) == expected
        once = sum(seen)
        responses(engine, alike[:1])
    assert sum(seen) == 2 * once


def test_many_patches_are_seen_in_parts(model: Path, requests: list[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = responses(HfEngine(model, SIZE, batch_size=5), requests)
    monkeypatch.setattr("leap.inference.vision_states._PATCHES", 1)
    engine = HfEngine(model, SIZE, batch_size=5)
    with patches_seen(engine) as seen:
        assert responses(engine, requests) == expected
    assert len(seen) > 2
