"""Every family answers in batches as the library's own processor and plain `generate` do, one request at a time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import FAMILIES, save_tiny_model

from leap.data.pictures import PictureEncoder, PictureSize
from leap.inference.hf import HfEngine
from leap.inference.protocol import Answer, Decoding, Request
from leap.models.loading import load_model, load_processor
from leap.records.training import ImagePart, Message, TextPart

SIZE = PictureSize(4, 9)
NEW = 16  # tokens
TEXTS = (
    "Put the red apple on the plate.",
    "Open the drawer, then pour the milk into the cup and close the drawer again.",
    "Which of the numbered things can cut bread?",
)
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Twelve of different lengths: two pictures each of different sizes, one with a single picture, one with none."""
    folder, drawn = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    made = []
    for index in range(12):
        paths = []
        for side in range(2 if index < 10 else 11 - index):
            height, width = (int(pixels) for pixels in drawn.integers(40, 200, 2))
            blocks = drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            paths.append(folder / f"{index}_{side}.png")
            Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
        text = f"{TEXTS[index % 3] * (1 + index % 2)} {index}"
        places = [ImagePart(type="image", image=path.name) for path in paths]
        content = [*places[:1], TextPart(type="text", text=text), *places[1:]]
        made.append(Request((str(index),), (Message(role="user", content=content),), tuple(paths)))
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(family, tmp_path_factory.mktemp("models") / family, TEXTS)


def answers(engine: HfEngine, requests: Sequence[Request]) -> dict[tuple[str, ...], Answer]:
    return {answer.key: answer for answer in engine.answers(requests, Decoding(max_new_tokens=NEW))}


def conversation(request: Request) -> list[dict[str, Any]]:
    pictures = iter(request.pictures)
    (message,) = request.messages
    content = [
        {"type": "image", "image": Image.open(next(pictures)).convert("RGB")}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in message.parts()
    ]
    return [{"role": message.role, "content": content}]


@pytest.fixture(scope="module")
def expected(folder: Path, family: str, requests: list[Request]) -> dict[tuple[str, ...], Answer]:
    """The library's own way, one by one, with its own attention."""
    model, processor = load_model(folder, "float32").eval(), load_processor(folder)
    end = "<end_of_utterance>" if family == "smolvlm" else "<|im_end|>"
    stop = {*processor.tokenizer.convert_tokens_to_ids([end, "<|im_end|>"])}
    own = model.generation_config.eos_token_id
    stop |= {*(own if isinstance(own, list) else [own])} - {None}
    options = {"images_kwargs": {"size": PictureEncoder(processor, SIZE).size}} if family in QWEN else {}
    found = {}
    for request in requests:
        inputs = processor.apply_chat_template(
            conversation(request),
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
        )
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=sorted(stop))
        prompt = inputs["input_ids"].shape[1]
        tokens = output[0, prompt:].tolist()
        ended = tokens[-1] in stop
        text = processor.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
        found[request.key] = Answer(request.key, text, "stop" if ended else "length", prompt, len(tokens))
    return found


def test_batches_answer_as_the_librarys_own_way(
    folder: Path, family: str, requests: list[Request], expected: dict[tuple[str, ...], Answer]
) -> None:
    assert len({answer.text for answer in expected.values()}) >= 6
    for batch_size in (1, 3, 12):
        assert answers(HfEngine(folder, SIZE, batch_size=batch_size), requests) == expected


def test_a_fixed_cache_answers_the_same(
    folder: Path, requests: list[Request], expected: dict[tuple[str, ...], Answer]
) -> None:
    engine = HfEngine(folder, SIZE, batch_size=5)
    engine._compiled = True  # the same path without a compiler, which a GPU alone has
    assert answers(engine, requests) == expected
