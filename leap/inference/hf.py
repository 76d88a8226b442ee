"""Inference in this process with transformers: left-padded batches of requests of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig

from leap import provenance
from leap.data.chat import ChatFormat
from leap.data.collate import pad_ids
from leap.data.pictures import PictureEncoder, PictureSize, open_picture
from leap.errors import LeapError
from leap.inference.protocol import Answer, Decoding, Request
from leap.models.loading import load_model, load_processor


@dataclass(frozen=True)
class _Prepared:
    """A request as the model reads it: prompt ids, patches and grids of its pictures."""

    key: tuple[str, str]
    ids: list[int]
    pixels: Any  # None without pictures
    grid: Any


class HfEngine:
    """One loaded model. `batch_size` is a cap: a batch that does not fit in memory is halved and tried again."""

    def __init__(
        self, folder: Path, pictures: PictureSize, device: str = "cpu", dtype: str = "float32", batch_size: int = 16
    ) -> None:
        self._device, self._dtype, self._batch_size = device, dtype, batch_size
        processor = load_processor(folder)
        self._tokenizer = processor.tokenizer
        self._chat = ChatFormat(processor)
        self._encoder = PictureEncoder(processor, pictures)
        self._model = load_model(folder, self._dtype, device).eval()
        self._stop = self._stop_tokens()
        self._pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else min(self._stop)
        # What a checkpoint says about sampling and penalties must not reach an evaluation.
        self._model.generation_config = GenerationConfig(eos_token_id=sorted(self._stop), pad_token_id=self._pad)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "hf",
            "dtype": self._dtype,
            "device": provenance.device_name(self._device),
            "batch_size": self._batch_size,
        }

    def close(self) -> None:
        del self._model

    def answers(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[Answer]:
        """Answers as their batches finish; the seed makes sampled answers repeatable for the same requests."""
        torch.manual_seed(decoding.seed)
        by_length = sorted(requests, key=lambda request: (_text_length(request), request.key))
        for start in range(0, len(by_length), self._batch_size):
            prepared = []
            for request in by_length[start : start + self._batch_size]:
                try:
                    prepared.append(self._prepare(request))
                except LeapError as error:  # this request's own pictures or text: the others go on
                    yield Answer(request.key, error=str(error))
            if prepared:
                yield from self._answer_batch(prepared, decoding)

    def _prepare(self, request: Request) -> _Prepared:
        pictures: list[Image.Image] = [open_picture(source) for source in request.pictures]
        if not pictures:
            return _Prepared(request.key, self._chat.prompt_ids(request.messages, []), None, None)
        pixels, grid = self._encoder.encode(pictures)
        ids = self._chat.prompt_ids(request.messages, self._encoder.tokens_of(grid))
        return _Prepared(request.key, ids, pixels, grid)

    def _answer_batch(self, batch: list[_Prepared], decoding: Decoding) -> Iterator[Answer]:
        try:
            generated = self._generate(batch, decoding)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                yield Answer(batch[0].key, error=f"out of memory on one example ({error})")
                return
            generated = None  # the next try must not hold this one's tensors
        if generated is None:
            torch.cuda.empty_cache()
            half = len(batch) // 2
            yield from self._answer_batch(batch[:half], decoding)
            yield from self._answer_batch(batch[half:], decoding)
            return
        for prepared, tokens in zip(batch, generated, strict=True):
            yield self._answer(prepared, tokens)

    @torch.inference_mode()
    def _generate(self, batch: list[_Prepared], decoding: Decoding) -> list[list[int]]:
        """New token ids of each request, in the batch's order, padding included."""
        inputs = pad_ids([prepared.ids for prepared in batch], self._pad, self._chat.image_token_id, left=True)
        with_pictures = [prepared for prepared in batch if prepared.pixels is not None]
        if with_pictures:
            inputs["pixel_values"] = torch.cat([prepared.pixels for prepared in with_pictures])
            inputs["image_grid_thw"] = torch.cat([prepared.grid for prepared in with_pictures])
        inputs = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        sampling: dict[str, Any] = {"do_sample": False}
        if decoding.temperature > 0:
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        output = self._model.generate(
            **inputs, max_new_tokens=decoding.max_new_tokens, min_new_tokens=decoding.min_new_tokens or None, **sampling
        )
        return output[:, inputs["input_ids"].shape[1] :].tolist()

    def _answer(self, prepared: _Prepared, tokens: list[int]) -> Answer:
        end = next((index for index, token in enumerate(tokens) if token in self._stop), None)
        answer = tokens if end is None else tokens[:end]
        return Answer(
            prepared.key,
            text=self._tokenizer.decode(answer, skip_special_tokens=True),
            finish="length" if end is None else "stop",
            prompt_tokens=len(prepared.ids),
            new_tokens=len(answer) if end is None else end + 1,
        )

    def _stop_tokens(self) -> set[int]:
        """The template's end of turn and the tokenizer's own end tokens."""
        own = self._model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [own]
        return {
            token for token in [*ends, self._tokenizer.eos_token_id, self._chat.end_of_turn[-1]] if token is not None
        }


def _text_length(request: Request) -> int:
    return sum(len(part.text) for message in request.messages for part in message.parts() if part.type == "text")
