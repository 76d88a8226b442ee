"""Conversations to token ids, with the label mask built beside them.

The prompt is what the chat template gives for generation; the labels are the answer's tokens and its end-of-turn token,
known by how they were made, never searched for. Text that looks like a special token is encoded as plain text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leap.errors import LeapError
from leap.records.training import ImagePart, Message

IGNORED = -100  # the label that cross-entropy passes over


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and answer, and labels of the same length (IGNORED over the prompt)."""

    input_ids: list[int]
    labels: list[int]


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

    def prompt_ids(self, messages: Sequence[Message], picture_tokens: Sequence[int]) -> list[int]:
        """The ids that generation starts from; each picture's placeholder is repeated `picture_tokens` times."""
        ids = self._text_ids(messages)
        if ids.count(self.image_token_id) != len(picture_tokens):
            raise LeapError(
                f"the chat template put {ids.count(self.image_token_id)} picture places where the conversation "
                f"has {len(picture_tokens)} pictures; this model's template does not show pictures"
            )
        counts = iter(picture_tokens)
        expanded: list[int] = []
        for token in ids:
            expanded.extend([token] * (next(counts) if token == self.image_token_id else 1))
        return expanded

    def answer_ids(self, answer: str) -> list[int]:
        """The answer's ids and the end of the turn: what a model should generate."""
        return self._plain_ids(answer) + self.end_of_turn

    def encode(self, messages: Sequence[Message], answer: str, picture_tokens: Sequence[int]) -> Encoded:
        """A training sample: loss on the answer and its end-of-turn token only."""
        prompt, target = self.prompt_ids(messages, picture_tokens), self.answer_ids(answer)
        return Encoded(prompt + target, [IGNORED] * len(prompt) + target)

    def _text_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids with one picture token a picture. Special text in a message is set aside while the template runs."""
        aside: list[str] = []
        mark = _unused_character(messages)

        def set_aside(match: re.Match[str]) -> str:
            aside.append(match.group())
            return mark

        conversation = [
            {
                "role": message.role,
                "content": [
                    {"type": "image"}
                    if isinstance(part, ImagePart)
                    else {"type": "text", "text": self._special_text.sub(set_aside, part.text)}
                    for part in message.parts()
                ],
            }
            for message in messages
        ]
        pieces = self._render(conversation, add_generation_prompt=True).split(mark)
        ids = self._template_ids(pieces[0])
        for text, piece in zip(aside, pieces[1:], strict=True):
            ids += self._plain_ids(text) + self._template_ids(piece)
        return ids

    def _render(self, conversation: list[dict], add_generation_prompt: bool) -> str:
        return self._processor.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def _template_ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _plain_ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _find_end_of_turn(self) -> list[int]:
        """What the template writes after an answer, up to and with its first special token."""
        mark = "\ue000"
        conversation = [
            {"role": "user", "content": [{"type": "text", "text": "?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": mark}]},
        ]
        after = self._render(conversation, add_generation_prompt=False).partition(mark)[2]
        ids = self._template_ids(after)
        special = set(self._tokenizer.all_special_ids)
        for index, token in enumerate(ids):
            if token in special:
                return ids[: index + 1]
        if self._tokenizer.eos_token_id is None:
            raise LeapError("the chat template ends an answer with no special token and the tokenizer has no end token")
        return [self._tokenizer.eos_token_id]


def _unused_character(messages: Sequence[Message]) -> str:
    """A private-use character that no message holds."""
    used = {c for message in messages for part in message.parts() if not isinstance(part, ImagePart) for c in part.text}
    return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
