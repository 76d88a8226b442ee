"""Conversations to token ids, with the label mask built beside them.

The prompt is what the chat template gives for generation; the labels are the answer's tokens and its end-of-turn token,
known by how they were made, never searched for. Text that looks like a special token is encoded as plain text.
Earlier assistant turns are part of the prompt: they are read, not learned, unless they say `learn`. Those are tokenized
apart from the template, as the answer is, since a model writes them token by token after the template's own.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from leap.data.chat_template import refusal, render
from leap.errors import LeapError
from leap.records.training import ImagePart, Message

IGNORED = -100  # the label that cross-entropy passes over


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and answer, and labels of the same length (IGNORED where nothing is learned)."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Lengths:
    """Token counts of a conversation, each image counted as the one token of its place, and of its answer."""

    prompt: int
    images: int  # places that the template gives to images
    answer: int  # with the end of the turn
    learned: int = 0  # of the prompt: earlier turns that are learned, with their ends


class _PlainText(NamedTuple):
    """A text that the template does not see, and that is tokenized as plain text."""

    text: str
    learned: bool  # a whole turn, which is learned with what ends it


class ChatFormat:
    """One processor's template and tokenizer, whatever its vocabulary."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self.image_token_id: int = processor.image_token_id
        added = self._tokenizer.added_tokens_decoder.values()
        special = sorted((token.content for token in added if token.special), key=len, reverse=True)
        self._special_text = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self.end_of_turn: list[int] = self._find_end_of_turn()

    def prompt_ids(self, messages: Sequence[Message], image_tokens: Sequence[int]) -> list[int]:
        """The ids that generation starts from; each image's placeholder is repeated `image_tokens` times."""
        return self._prompt(messages, image_tokens).input_ids

    def _prompt(self, messages: Sequence[Message], image_tokens: Sequence[int]) -> Encoded:
        (encoded,) = self._encode_prompts([messages])
        refuse_lost_images(encoded.input_ids.count(self.image_token_id), len(image_tokens))
        counts = iter(image_tokens)
        prompt = Encoded([], [])
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
            repeats = next(counts) if token == self.image_token_id else 1
            prompt.input_ids.extend([token] * repeats)
            prompt.labels.extend([label] * repeats)
        return prompt

    def answer_ids(self, answer: str) -> list[int]:
        """The answer's ids and the end of the turn: what a model should generate."""
        return self._plain_ids([answer])[0] + self.end_of_turn

    def encode(self, messages: Sequence[Message], answer: str, image_tokens: Sequence[int]) -> Encoded:
        """A training sample: loss on the answer, on earlier turns that are learned, and on their end-of-turn tokens."""
        prompt, target = self._prompt(messages, image_tokens), self.answer_ids(answer)
        return Encoded(prompt.input_ids + target, prompt.labels + target)

    def lengths(self, samples: Sequence[tuple[Sequence[Message], str]]) -> list[Lengths]:
        """What `encode` would make of these conversations and answers: tokenized in one go, which is faster."""
        prompts = self._encode_prompts([messages for messages, _ in samples])
        answers = self._plain_ids([answer for _, answer in samples])
        return [
            Lengths(
                prompt=len(prompt.input_ids),
                images=prompt.input_ids.count(self.image_token_id),
                answer=len(answer) + len(self.end_of_turn),
                learned=len(prompt.labels) - prompt.labels.count(IGNORED),
            )
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def identity(self) -> str:
        """A hash of everything that decides which ids a conversation becomes."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend else json.dumps(self._tokenizer.get_vocab(), sort_keys=True)
        kind = [type(self._processor).__name__, type(self._tokenizer).__name__, self._special_text.pattern]
        parts = [*kind, str(self._processor.chat_template), self.image_token_id, self.end_of_turn, vocabulary]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _encode_prompts(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
        """Ids with one image token an image, and labels, which only earlier turns that are learned have."""
        rendered = [self._render(messages) for messages in conversations]
        template = iter(self._template_ids([segment for segments, _ in rendered for segment in segments]))
        plain = iter(self._plain_ids([text for _, texts in rendered for text, _ in texts]))
        prompts = []
        for segments, texts in rendered:
            ids = [*next(template)]
            labels = [IGNORED] * len(ids)
            for (_, learned), _ in zip(texts, segments[1:], strict=True):
                text, segment = next(plain), next(template)
                end = self._turn_end(segment) if learned else 0
                ids += text + segment
                labels += (text if learned else [IGNORED] * len(text)) + segment[:end]
                labels += [IGNORED] * (len(segment) - end)
            prompts.append(Encoded(ids, labels))
        return prompts

    def _turn_end(self, segment: list[int]) -> int:
        """How many ids end a learned turn in what the template writes behind it."""
        if segment[: len(self.end_of_turn)] != self.end_of_turn:
            raise refusal(self._processor, "ends an earlier turn otherwise than the last; give --train_on last")
        return len(self.end_of_turn)

    def _render(self, messages: Sequence[Message]) -> tuple[list[str], list[_PlainText]]:
        """The rendered conversation, split where a plain text belongs, and these texts: n + 1 and n of them."""
        texts: list[_PlainText] = []
        mark = _unused_character(messages)

        def plain(text: str, learned: bool) -> str:
            texts.append(_PlainText(text, learned))
            return mark

        def content(message: Message) -> list[dict[str, str]]:
            if message.learn:
                return [{"type": "text", "text": plain(message.text(), learned=True)}]
            return [
                {"type": "image"}
                if isinstance(part, ImagePart)
                else {"type": "text", "text": self._special_text.sub(lambda found: plain(found[0], False), part.text)}
                for part in message.parts()
            ]

        conversation = [{"role": message.role, "content": content(message)} for message in messages]
        return render(self._processor, conversation, add_generation_prompt=True).split(mark), texts

    def _template_ids(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def _plain_ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _find_end_of_turn(self) -> list[int]:
        """What the template writes after an answer, up to and with its first special token."""
        asked, mark = "\ue001", "\ue000"
        conversation = [
            {"role": "user", "content": [{"type": "text", "text": asked}]},
            {"role": "assistant", "content": [{"type": "text", "text": mark}]},
        ]
        text = render(self._processor, conversation, add_generation_prompt=False)
        before, found, after = text.partition(mark)
        if asked not in before or not found:
            raise refusal(self._processor, "leaves out what is said")
        ids = self._template_ids([after])[0]
        special = set(self._tokenizer.all_special_ids)
        for index, token in enumerate(ids):
            if token in special:
                return ids[: index + 1]
        if self._tokenizer.eos_token_id is None:
            raise refusal(self._processor, "ends a response with no special token, and the tokenizer has no end token")
        return [self._tokenizer.eos_token_id]


def refuse_lost_images(places: int, images: int) -> None:
    """Raises LeapError where a chat template leaves a conversation's images out."""
    if places != images:
        raise LeapError(
            f"the chat template put {places} image places where the conversation has {images} images; "
            "this model's template does not show images"
        )


def _unused_character(messages: Sequence[Message]) -> str:
    """A private-use character that no message holds."""
    used = {c for message in messages for part in message.parts() if not isinstance(part, ImagePart) for c in part.text}
    return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
