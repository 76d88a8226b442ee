"""vLLM is asked what the model that learns is asked: with one place an image, which it gives all of them itself."""

from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leap.errors import LeapError

pytest.importorskip("trl", reason='TRL is an optional extra: pip install -c constraints.txt -e ".[rl]"')

from leap.reinforcement.vllm_sampling import ask_with_one_place, one_place

IMAGE, PLACES = 9, 3


class Engine:
    """Gives images their places as vLLM does."""

    def __init__(self, places: int = PLACES) -> None:
        self._places = places

    def generate(self, prompts: list[dict[str, Any]], **_: Any) -> list[Any]:
        return [SimpleNamespace(prompt_token_ids=self._with_places(prompt)) for prompt in prompts]

    def _with_places(self, prompt: dict[str, Any]) -> list[int]:
        tokens = prompt["prompt_token_ids"]
        return list(chain(*([token] * (self._places if token == IMAGE else 1) for token in tokens)))


@given(st.lists(st.integers(0, 8)), st.lists(st.integers(0, 8), min_size=1), st.lists(st.integers(0, 8)))
def test_an_image_has_one_place(before: list[int], between: list[int], after: list[int]) -> None:
    images = [IMAGE] * PLACES
    prompt = {"prompt_token_ids": [*before, *images, *between, *images, *after], "multi_modal_data": {"image": "two"}}
    shown = {**prompt, "prompt_token_ids": [*before, IMAGE, *between, IMAGE, *after]}
    assert one_place(prompt, IMAGE) == shown
    engine = Engine()
    ask_with_one_place(engine, IMAGE)
    (output,) = engine.generate([prompt])
    assert output.prompt_token_ids == prompt["prompt_token_ids"]


def test_another_prompt_ends_the_run() -> None:
    engine = Engine(places=PLACES + 1)
    ask_with_one_place(engine, IMAGE)
    with pytest.raises(LeapError, match="another prompt than the model that learns"):
        engine.generate([{"prompt_token_ids": [1, *[IMAGE] * PLACES, 2]}])
