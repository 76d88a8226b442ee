"""vLLM in the process of a run with rewards: TRL starts it, gives it the weights of each step, and asks it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from trl.generation import vllm_generation

from leap.data.image import ImageEncoder, ImageSize
from leap.errors import LeapError


@contextmanager
def shown_images_once(processor: Any, size: ImageSize) -> Iterator[None]:
    """A vLLM that TRL starts meanwhile sees what the model that learns sees.

    TRL asks with tokens in which an image has all its places already, and vLLM gives each image its places again (TRL's
    issues 6294 and 6401): so it is asked with one place an image. And the `size` of images is that of the run, where
    the model's folder says another.
    """
    start = vllm_generation.LLM
    pixels = ImageEncoder(processor, size).size

    def started(*arguments: Any, **options: Any) -> Any:
        engine = start(
            *arguments,
            mm_processor_kwargs={"size": pixels},
            limit_mm_per_prompt={"video": 0},  # vLLM would keep memory for one
            **options,
        )
        ask_with_one_place(engine, processor.image_token_id)
        return engine

    vllm_generation.LLM = started
    try:
        yield
    finally:
        vllm_generation.LLM = start


def ask_with_one_place(engine: Any, image: int) -> None:
    original = engine.generate

    def generate(prompts: Sequence[dict[str, Any]], **options: Any) -> Any:
        outputs = original([one_place(prompt, image) for prompt in prompts], **options)
        for prompt, output in zip(prompts, outputs, strict=True):
            if list(output.prompt_token_ids) != list(prompt["prompt_token_ids"]):
                raise LeapError(
                    "vLLM was shown another prompt than the model that learns: does it size images otherwise?"
                )
        return outputs

    engine.generate = generate


def one_place(prompt: dict[str, Any], image: int) -> dict[str, Any]:
    """The prompt with one `image` token where several follow each other."""
    found = [
        token for token, run in groupby(prompt["prompt_token_ids"]) for token in ([token] if token == image else run)
    ]
    return {**prompt, "prompt_token_ids": found}
