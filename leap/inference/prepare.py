"""Requests to what a model reads, in worker processes ahead of it: images take longer to decode than to see."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image

from leap.data.chat_encoding import ChatFormat
from leap.data.chat_template import refusal
from leap.data.collator import pad_ids
from leap.data.image import ImageEncoder, ImageSize, load_image
from leap.errors import LeapError, first_line, is_out_of_memory
from leap.hardware import usable_cores
from leap.inference.protocol import Request, image_digest
from leap.records.training import ImagePart, Message, TextPart
from leap.workers import start_loader_worker, usable_workers

_TRIAL = ImageSize(16, 64)
_AHEAD = 8  # requests that each worker may have ready
_WORTH_A_WORKER = 16  # requests: starting a worker takes longer than preparing a few


@dataclass(frozen=True)
class Prepared:
    """A request as its model reads it. numpy arrays: they pass between processes without shared memory."""

    key: tuple[str, ...]
    ids: list[int]  # the prompt's tokens
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Unprepared:
    """A request whose own images or text cannot be read."""

    key: tuple[str, ...]
    reason: str


class Preparer(ABC):
    """Prepares one request on the CPU, and puts a batch of them on the device."""

    image_size: str  # how images are sized, for the manifest
    image_token_id: int | None = None  # where one is known, a batch may have a shared opening

    def prepare(self, request: Request) -> Prepared:
        return self.read(request.key, request.messages, [load_image(source) for source in request.images])

    @abstractmethod
    def read(self, key: tuple[str, ...], messages: Sequence[Message], images: Sequence[Image.Image]) -> Prepared:
        """The conversation with these images in its image places."""

    @abstractmethod
    def batch(
        self, prepared: Sequence[Prepared], pad: int, device: str, dtype: torch.dtype, shared: int = 0
    ) -> dict[str, torch.Tensor]:
        """The model's arguments for these requests, padded on the left: behind the `shared` tokens that all begin with,
        which must be text."""


class PatchPreparer(Preparer):
    """For Qwen's VLMs: images at the evaluation's size, as bytes until they are on the device."""

    image_size = "the evaluation's"

    def __init__(self, processor: Any, images: ImageSize) -> None:
        self._chat = ChatFormat(processor)
        self._encoder = ImageEncoder(processor, images)
        self.image_token_id = self._chat.image_token_id

    def read(self, key: tuple[str, ...], messages: Sequence[Message], images: Sequence[Image.Image]) -> Prepared:
        if not images:
            return Prepared(key, self._chat.prompt_ids(messages, []))
        patches, grid = self._encoder.encode_bytes(images)
        ids = self._chat.prompt_ids(messages, self._encoder.tokens_of(grid))
        return Prepared(key, ids, {"patches": patches.numpy(), "grid": grid.numpy()})

    def batch(
        self, prepared: Sequence[Prepared], pad: int, device: str, dtype: torch.dtype, shared: int = 0
    ) -> dict[str, torch.Tensor]:
        inputs = pad_ids([request.ids[shared:] for request in prepared], pad, self._chat.image_token_id, left=True)
        opening = pad_ids([request.ids[:shared] for request in prepared], pad, self._chat.image_token_id, left=True)
        inputs = {name: torch.cat([opening[name], own], dim=1) for name, own in inputs.items()}
        arrays = [request.arrays for request in prepared if request.arrays]
        if arrays:
            patches = torch.from_numpy(np.concatenate([found["patches"] for found in arrays]))
            inputs["pixel_values"] = self._encoder.scale(patches.to(device), dtype)
            inputs["image_grid_thw"] = torch.from_numpy(np.concatenate([found["grid"] for found in arrays]))
        return {name: tensor.to(device) for name, tensor in inputs.items()}


class ProcessorPreparer(Preparer):
    """For any other VLM: whatever its own processor makes of a conversation, images at that processor's size.

    `options` are the processor's own.
    """

    image_size = "the processor's own"

    def __init__(self, processor: Any, options: dict[str, Any] | None = None) -> None:
        self._processor, self._options = processor, options or {}
        self._special = [token for token in processor.tokenizer.all_special_tokens if token]

    def read(self, key: tuple[str, ...], messages: Sequence[Message], images: Sequence[Image.Image]) -> Prepared:
        waiting = iter(images)
        conversation = [
            {"role": message.role, "content": [self._part(part, waiting) for part in message.parts()]}
            for message in messages
        ]
        try:
            found = self._processor.apply_chat_template(
                conversation,
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=self._options,
            )
        except TemplateError as error:  # some templates know no system message, or no second question
            raise refusal(self._processor, f"fails ({error})") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:  # its way to refuse an image, or a conversation
            name = type(self._processor).__name__
            raise LeapError(f"{name} cannot read it ({type(error).__name__}: {first_line(error)})") from error
        (ids,) = found.pop("input_ids").tolist()
        image = getattr(self._processor, "image_token_id", None)
        if images and image is not None and image not in ids:
            raise LeapError("this model's chat template does not show images; copy the one that belongs to it")
        found.pop("attention_mask", None)
        return Prepared(key, ids, {name: tensor.numpy() for name, tensor in found.items()})

    def _part(self, part: Any, images: Iterator[Image.Image]) -> dict[str, Any]:
        if isinstance(part, ImagePart):
            return {"type": "image", "image": next(images)}
        if special := next((token for token in self._special if token in part.text), None):
            raise LeapError(f"the text holds {special}, which means something else to this model; change the text")
        return {"type": "text", "text": part.text}

    def batch(
        self, prepared: Sequence[Prepared], pad: int, device: str, dtype: torch.dtype, shared: int = 0
    ) -> dict[str, torch.Tensor]:
        assert not shared, "its arrays may be of all tokens"
        inputs = pad_ids([request.ids for request in prepared], pad, -1, left=True)
        del inputs["mm_token_type_ids"]
        for name in dict.fromkeys(name for request in prepared for name in request.arrays):
            rows = [torch.from_numpy(request.arrays[name]) for request in prepared if name in request.arrays]
            joined = _joined(rows, left=rows[0].shape == (1, len(prepared[0].ids)))
            inputs[name] = joined.to(dtype) if joined.is_floating_point() else joined
        return {name: tensor.to(device) for name, tensor in inputs.items()}


def find_preparer(processor: Any, images: ImageSize) -> Preparer:
    """The one that fits the model's family."""
    if ImageEncoder.encodes(processor) and _reads_as_its_processor(processor):
        return PatchPreparer(processor, images)
    name = type(processor).__name__
    print(f"{name}: images at its own size; the evaluation's bounds on their tokens do not apply", file=sys.stderr)
    return ProcessorPreparer(processor)


def _reads_as_its_processor(processor: Any) -> bool:
    """Whether PatchPreparer makes of an image and a text what the processor itself does.

    Some families have Qwen's names for their settings, and another order of patches or more arguments. The size is
    small and always the same: the evaluation's own may need more memory than there is, which says nothing of a family.
    """
    ours = PatchPreparer(processor, _TRIAL)
    theirs = ProcessorPreparer(processor, {"images_kwargs": {"size": ImageEncoder(processor, _TRIAL).size}})
    slope = np.add.outer(np.arange(96), np.arange(64))[..., None] + np.arange(3) * 30
    seen = [Image.fromarray(slope.astype(np.uint8))]
    parts: list[Any] = [TextPart(type="text", text="Look: "), ImagePart(type="image", image="trial")]
    asked = [Message(role="user", content=parts)]
    try:
        tried = [
            preparer.batch([preparer.read((), asked, seen)], 0, "cpu", torch.float32) for preparer in (ours, theirs)
        ]
    except (LeapError, RuntimeError) as error:  # patches of another shape
        if is_out_of_memory(error):
            raise
        return False
    return tried[0].keys() == tried[1].keys() and all(
        tensor.shape == tried[1][name].shape and torch.allclose(tensor.float(), tried[1][name].float(), atol=1e-4)
        for name, tensor in tried[0].items()
    )


_Shown = tuple[tuple[tuple[str, tuple[str | None, ...]], ...], tuple[bytes, ...]]


def _shown(request: Request) -> _Shown | None:
    """All that the request shows, its texts as they are: in `request_hash` a text may look like an image's place, or
    like two. None for one whose images cannot be read."""
    texts = tuple(
        (message.role, tuple(None if isinstance(part, ImagePart) else part.text for part in message.parts()))
        for message in request.messages
    )
    try:
        return texts, tuple(map(image_digest, request.images))
    except OSError:
        return None


class PreparedRequests:
    """Requests as a model reads them, made by `workers` processes ahead of it. Up to `keep` bytes of them stay, for
    other models that are asked the same."""

    def __init__(self, preparer: Preparer, workers: int, keep: int = 0) -> None:
        self._preparer, self._workers, self._room = preparer, workers, keep
        self._kept: dict[_Shown, Prepared] = {}

    def ahead(self, requests: Sequence[Request]) -> Iterator[Prepared | Unprepared]:
        """Every request in its order."""
        names = [_shown(request) if self._room or self._kept else None for request in requests]
        kept = [self._kept.get(name) if name else None for name in names]
        missing = [request for request, there in zip(requests, kept, strict=True) if there is None]
        fresh = prepare_ahead(self._preparer, missing, self._workers)
        for request, name, there in zip(requests, names, kept, strict=True):
            if there is not None:
                yield replace(there, key=request.key)
                continue
            made = next(fresh)
            if name and isinstance(made, Prepared):
                self._keep(name, made)
            yield made

    def _keep(self, name: _Shown, made: Prepared) -> None:
        """The first that there is room for: where all are asked again in turn, the last one used is the last needed."""
        size = sum(array.nbytes for array in made.arrays.values()) + 8 * len(made.ids)
        if name not in self._kept and size <= self._room:
            self._room -= size
            self._kept[name] = made


def prepare_ahead(preparer: Preparer, requests: Sequence[Request], workers: int) -> Iterator[Prepared | Unprepared]:
    """Every request in its order. `workers` processes run ahead of the caller, fewer for a few requests; with none,
    each is made when asked."""
    workers = min(workers, len(requests) // _WORTH_A_WORKER)
    if usable_workers(workers) == 0:
        yield from map(_Preparing(preparer, requests).__getitem__, range(len(requests)))
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    loader = torch.utils.data.DataLoader(
        _Preparing(preparer, requests),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=start_loader_worker,
    )
    yield from loader


@dataclass(frozen=True)
class _Preparing(torch.utils.data.Dataset):
    preparer: Preparer
    requests: Sequence[Request]

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> Prepared | Unprepared:
        request = self.requests[index]
        try:
            return self.preparer.prepare(request)
        except LeapError as error:  # this request's alone: the others go on
            return Unprepared(request.key, str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return Unprepared(request.key, f"out of memory while its images were prepared ({first_line(error)})")


def _as_it_is(prepared: Any) -> Any:
    return prepared


def _joined(rows: Sequence[torch.Tensor], left: bool) -> torch.Tensor:
    """Rows in one tensor along the first axis; the other axes are filled with zeros, at their end or at their start."""
    shape = [max(sizes) for sizes in zip(*(row.shape[1:] for row in rows), strict=True)]
    filled = []
    for row in rows:
        gaps = [largest - size for largest, size in zip(shape, row.shape[1:], strict=True)]
        padding = [side for gap in reversed(gaps) for side in ((gap, 0) if left else (0, gap))]
        filled.append(torch.nn.functional.pad(row, padding))
    return torch.cat(filled)


def default_workers(device: str) -> int:
    """On a GPU all cores but one prepare; on a CPU one does, since the others are the model's."""
    cores = usable_cores()
    return max(1, min(16, cores - 1)) if device.startswith("cuda") else min(1, cores - 1)
