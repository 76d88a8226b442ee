"""Every family answers in batches as the library's own processor and plain `generate` do, one request at a time."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import FAMILIES, save_tiny_model

from leap.data.image import ImageEncoder, ImageSize
from leap.errors import LeapError
from leap.inference import attention
from leap.inference.hf import HfEngine
from leap.inference.prepare import PatchPreparer, ProcessorPreparer, Unprepared, find_preparer, prepare_ahead
from leap.inference.protocol import Decoding, Request, Response
from leap.inference.vllm_server import VllmSettings, _image_pixels
from leap.models.loading import load_model, load_processor
from leap.records.training import ImagePart, Message, TextPart

SIZE = ImageSize(4, 9)
NEW = 8  # tokens
TEXTS = (
    "Put the red apple on the plate.",
    "Open the drawer, then pour the milk into the cup and close the drawer again.",
    "Which of the numbered things can cut bread?",
)
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Products as small as these wait longer for other threads than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Twelve of different lengths: two images each of different sizes, one with a single image, one with none."""
    folder, drawn = tmp_path_factory.mktemp("images"), np.random.default_rng(5)
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


needs_num2words = pytest.mark.skipif(find_spec("num2words") is None, reason="SmolVLM's processor needs num2words")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=needs_num2words if name == "smolvlm" else ()) for name in FAMILIES],
)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(family, tmp_path_factory.mktemp("models") / family, TEXTS)


def responses(engine: HfEngine, requests: Sequence[Request]) -> dict[tuple[str, ...], Response]:
    return {answer.key: answer for answer in engine.responses(requests, Decoding(max_new_tokens=NEW))}


def conversation(request: Request) -> list[dict[str, Any]]:
    images = iter(request.images)
    (message,) = request.messages
    content = [
        {"type": "image", "image": Image.open(next(images)).convert("RGB")}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in message.parts()
    ]
    return [{"role": message.role, "content": content}]


@pytest.fixture(scope="module")
def expected(folder: Path, family: str, requests: list[Request]) -> dict[tuple[str, ...], Response]:
    """The library's own way, one by one, with its own attention."""
    model, processor = load_model(folder, "float32").eval(), load_processor(folder)
    end = "<end_of_utterance>" if family == "smolvlm" else "<|im_end|>"
    stop = {*processor.tokenizer.convert_tokens_to_ids([end, "<|im_end|>"])}
    own = model.generation_config.eos_token_id
    stop |= {*(own if isinstance(own, list) else [own])} - {None}
    options = {"images_kwargs": {"size": ImageEncoder(processor, SIZE).size}} if family in QWEN else {}
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
        found[request.key] = Response(request.key, text, "stop" if ended else "length", prompt, len(tokens))
    return found


def test_batches_answer_as_the_librarys_own_way(
    folder: Path, family: str, requests: list[Request], expected: dict[tuple[str, ...], Response]
) -> None:
    assert len({answer.text for answer in expected.values()}) >= 6
    for batch_size in (1, 3, 12):
        assert responses(HfEngine(folder, SIZE, batch_size=batch_size), requests) == expected


def test_a_fixed_cache_answers_the_same(
    folder: Path, requests: list[Request], expected: dict[tuple[str, ...], Response]
) -> None:
    engine = HfEngine(folder, SIZE, batch_size=5)
    engine._compiled = True  # the same path without a compiler, which a GPU alone has
    assert responses(engine, requests) == expected


def test_what_cannot_be_compiled_is_reported_and_answers_the_same(
    folder: Path,
    family: str,
    requests: list[Request],
    expected: dict[tuple[str, ...], Response],
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = HfEngine(folder, SIZE, batch_size=12, compiled=True)
    assert responses(engine, requests) == expected
    reason = "no fixed cache for SmolVLM" if family == "smolvlm" else "no NVIDIA GPU"
    assert capsys.readouterr().err.count(reason) == 1


def test_the_evaluation_sets_the_size_of_images_where_the_family_lets_it(
    folder: Path, family: str, requests: list[Request], capsys: pytest.CaptureFixture[str]
) -> None:
    def described(size: ImageSize) -> tuple[str, int | None]:
        engine = HfEngine(folder, size, batch_size=1)
        (answer,) = engine.responses(requests[:1], Decoding(max_new_tokens=1))
        return engine.describe()["image_size"], answer.prompt_tokens

    small, large = described(ImageSize(4, 4)), described(ImageSize(16, 16))
    message = capsys.readouterr().err
    if family in QWEN:
        assert small[0] == large[0] == "the evaluation's"
        assert (large[1] or 0) - (small[1] or 0) >= 2 * (9 - 4)  # two images, of at least 3x3 and at most 4 tokens
        assert "size" not in message
    else:
        assert small == large
        assert small[0] == "the processor's own"
        assert "bounds on their tokens do not apply" in message


def test_a_text_that_looks_like_an_image_stays_a_text(folder: Path, family: str, requests: list[Request]) -> None:
    """Or is refused, alone, where a processor would take it for an image."""
    token = {"internvl": "<IMG_CONTEXT>", "smolvlm": "<image>"}.get(family, "<|image_pad|>")
    parts = [*requests[0].messages[0].content, TextPart(type="text", text=f"What is {token}?")]
    odd = replace(requests[0], key=("odd",), messages=(Message(role="user", content=parts),))
    found = responses(HfEngine(folder, SIZE), [odd, requests[1]])
    assert found["1",].error is None
    assert (found["odd",].error is None) == (family in QWEN)
    assert family in QWEN or token in str(found["odd",].error)


def test_names_of_qwens_settings_do_not_make_it_qwens(tmp_path: Path, requests: list[Request]) -> None:
    """An image processor with the same settings that orders its patches otherwise is left to itself."""
    from transformers import Qwen2VLImageProcessor

    class Reversed(Qwen2VLImageProcessor):
        def _preprocess(self, *arguments: Any, **options: Any) -> Any:
            found = super()._preprocess(*arguments, **options)
            found["pixel_values"] = found["pixel_values"].flip(1)
            return found

    processor = load_processor(save_tiny_model("qwen2_vl", tmp_path / "model", TEXTS))
    assert isinstance(find_preparer(processor, SIZE), PatchPreparer)
    processor.image_processor = Reversed(**processor.image_processor.to_dict())
    assert ImageEncoder.encodes(processor)
    assert isinstance(find_preparer(processor, SIZE), ProcessorPreparer)


def test_what_a_processor_refuses_is_one_requests_own(tmp_path: Path, requests: list[Request]) -> None:
    """Qwen's own refuses so long an image with a ValueError."""
    processor = load_processor(save_tiny_model("qwen2_vl", tmp_path / "model", TEXTS))
    Image.new("RGB", (3000, 10)).save(tmp_path / "long.png")
    long = replace(requests[10], key=("long",), images=(tmp_path / "long.png",))
    found = list(prepare_ahead(ProcessorPreparer(processor), [long, requests[10]], 0))
    assert isinstance(found[0], Unprepared)
    assert "cannot read it (ValueError: absolute aspect ratio must be smaller than 200" in found[0].reason
    assert not isinstance(found[1], Unprepared)


def test_a_size_that_memory_does_not_hold_makes_no_other_family(tmp_path: Path, requests: list[Request]) -> None:
    """Such images are failures, in one line each; at another size than asked for they would be silently wrong."""
    processor = load_processor(save_tiny_model("qwen2_vl", tmp_path / "model", TEXTS))
    preparer = find_preparer(processor, ImageSize(10**9, 10**9))
    assert isinstance(preparer, PatchPreparer)
    assert preparer.image_size == "the evaluation's"
    (found,) = prepare_ahead(preparer, [next(request for request in requests if request.images)], 0)
    assert isinstance(found, Unprepared)
    assert found.reason.startswith("out of memory while its images were prepared (")
    assert len(found.reason.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "ours"), [({}, True), ({"use_sliding_window": True, "max_window_layers": 1}, False)]
)
def test_our_attention_is_for_plainly_causal_decoders(tmp_path: Path, change: dict[str, Any], ours: bool) -> None:
    """A window would be ignored. The library's own attention keeps it."""
    folder = save_tiny_model("internvl", tmp_path / "model", TEXTS)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {**change, "sliding_window": 8, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder, "float32", attention=None)
    attention.use(model)
    assert (model.config.text_config._attn_implementation == attention.NAME) == ours


@needs_num2words
def test_what_a_processor_lacks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.smolvlm import processing_smolvlm

    folder = save_tiny_model("smolvlm", tmp_path / "model", TEXTS)
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(LeapError, match="pip install num2words"):
        load_processor(folder)


def test_vllm_is_reported_image_sizes_or_refused(family: str, folder: Path) -> None:
    settings = VllmSettings(folder, ImageSize(4, 9))
    if family.startswith("qwen"):
        assert set(_image_pixels(settings)) == {"shortest_edge", "longest_edge"}
    else:
        with pytest.raises(LeapError, match="--engine hf"):
            _image_pixels(settings)
