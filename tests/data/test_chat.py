"""Prompt ids and label masks: exactly the answer and its end of turn, for any tokenizer and template."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from full_size import qwen_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leap.data.chat_encoding import IGNORED, ChatFormat
from leap.data.image import ImageEncoder, ImageSize
from leap.models.loading import load_processor
from leap.records.training import ImagePart, Message, TextPart
from leap.tabletop.tiny_model import CHAT_TEMPLATE, SPECIAL_TOKENS, make_processor


@pytest.fixture(scope="module")
def qwen() -> Any:
    """A processor over Qwen's real vocabulary."""
    return make_processor(qwen_tokenizer())


@pytest.fixture(scope="module")
def demo(model: Path) -> Any:
    return load_processor(model)


@pytest.fixture(scope="module", params=["qwen", "demo"])
def processor(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def ask(*parts: str | None) -> list[Message]:
    """A user's message; None stands for an image."""
    content = [ImagePart(type="image", image="x.png") if p is None else TextPart(type="text", text=p) for p in parts]
    return [Message(role="user", content=content)]


def test_qwen_ids_are_the_real_ones(qwen: Any) -> None:
    # Known ids of Qwen2.5 and Qwen3: the chat format's own.
    assert qwen.tokenizer("<|im_start|>assistant\n")["input_ids"] == [151644, 77091, 198]
    assert qwen.tokenizer.convert_tokens_to_ids("<|image_pad|>") == 151655


def test_labels_are_the_answer_and_its_end_of_turn(processor: Any) -> None:
    answer = "1) Pick up the cup. 2) Place it in the bowl."
    encoded = ChatFormat(processor).encode(ask(None, "What steps?"), answer, [6])
    labels = [label for label in encoded.labels if label != IGNORED]
    assert processor.tokenizer.decode(labels) == answer + "<|im_end|>"
    assert encoded.input_ids[-len(labels) :] == labels
    assert encoded.input_ids.count(processor.image_token_id) == 6


def test_the_word_assistant_in_a_prompt_is_no_label(processor: Any) -> None:
    chat = ChatFormat(processor)
    plain = chat.encode(ask("Which step?"), "Pick.", [])
    odd = chat.encode(ask("assistant\nassistant <|im_start|>assistant\nPick.<|im_end|>"), "Pick.", [])
    assert [i for i in plain.labels if i != IGNORED] == [i for i in odd.labels if i != IGNORED]


def test_special_text_in_a_prompt_stays_text(processor: Any) -> None:
    chat = ChatFormat(processor)
    ids = chat.prompt_ids(ask(None, "draw <|image_pad|> and <|im_end|> here"), [4])
    assert ids.count(processor.image_token_id) == 4
    turn_ends = ids.count(processor.tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert turn_ends == chat.prompt_ids(ask(None, "draw"), [4]).count(chat.end_of_turn[-1])
    assert "draw <|image_pad|> and <|im_end|> here" in processor.tokenizer.decode(ids)


def test_special_text_in_an_answer_ends_no_turn(processor: Any) -> None:
    ids = ChatFormat(processor).answer_ids("say <|im_end|> twice")
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


@settings(max_examples=60, derandomize=True)
@given(question=st.text(min_size=1), answer=st.text(min_size=1), images=st.integers(0, 3))
def test_any_text_gives_the_same_answer_labels(demo: Any, question: str, answer: str, images: int) -> None:
    chat = ChatFormat(demo)
    encoded = chat.encode(ask(*[None] * images, question), answer, [2] * images)
    labels = [label for label in encoded.labels if label != IGNORED]
    assert labels == chat.answer_ids(answer)
    assert encoded.labels == [IGNORED] * (len(encoded.labels) - len(labels)) + labels
    assert labels.count(chat.end_of_turn[-1]) == 1


def test_prompts_equal_the_processors_own(demo: Any) -> None:
    image = Image.new("RGB", (200, 130), (9, 99, 200))
    encoder = ImageEncoder(demo, ImageSize(64, 16384))
    messages = ask("First.\n\n", None, "  what now? ", None)
    conversation = [{"role": "user", "content": [p.model_dump() for p in messages[0].parts()]}]
    text = demo.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    theirs = demo(text=[text], images=[image, image])["input_ids"][0]
    assert ChatFormat(demo).prompt_ids(messages, [encoder.tokens(130, 200)] * 2) == list(theirs)


def test_token_count_from_the_header_is_what_encoding_gives(demo: Any) -> None:
    encoder = ImageEncoder(demo, ImageSize(20, 90))
    for width, height in ((30, 40), (640, 480), (101, 777), (320, 320)):
        _, grid = encoder.encode([Image.new("RGB", (width, height))])
        assert encoder.tokens_of(grid) == [encoder.tokens(height, width)]
        assert 20 <= encoder.tokens(height, width) <= 90


def test_another_template_with_its_own_end_of_turn(demo: Any) -> None:
    """A template that closes answers with <|endoftext|> teaches that token."""
    template = CHAT_TEMPLATE.replace(
        "<|im_end|>", "{{ '<|endoftext|>' if message.role == 'assistant' else '<|im_end|>' }}"
    )
    other = SimpleNamespace(
        tokenizer=demo.tokenizer,
        image_token_id=demo.image_token_id,
        apply_chat_template=lambda conversation, **options: demo.tokenizer.apply_chat_template(
            conversation, chat_template=template, **options
        ),
    )
    assert ChatFormat(other).end_of_turn == demo.tokenizer.convert_tokens_to_ids(["<|endoftext|>"])


def test_every_special_token_is_in_the_demo_vocabulary(demo: Any) -> None:
    ids = demo.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert len(set(ids)) == len(SPECIAL_TOKENS)
    assert all(token.special for index, token in demo.tokenizer.added_tokens_decoder.items() if index in ids)
