"""Inference in this process with transformers: left-padded batches of requests of similar length.

On a GPU, batches are as large as the memory allows and the decoding step is compiled. Images are prepared by worker
processes meanwhile.
"""

import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from leap import provenance
from leap.data.image import ImageSize
from leap.errors import first_line, is_out_of_memory
from leap.inference import attention
from leap.inference.fast_parts import replace_parts
from leap.inference.generation import Generation
from leap.inference.prepare import Prepared, PreparedRequests, Unprepared, default_workers, find_preparer
from leap.inference.protocol import Decoding, Request, Response
from leap.models.exchange import difference_beside_weights
from leap.models.loading import Quantization, load_model, load_processor, stop_tokens
from leap.workers import clear_worker_errors

_ROWS_ON_CPU, _ROWS_ON_GPU = 32, 64  # more rows gain little and cost more where the last batch is small
_WORTH_COMPILING = 8  # batches: compiling took 65 s on an H100, and saved 5 to 15 s a batch of 64


@dataclass(frozen=True)
class LoadedModel:
    """A model that is in memory already, on the engine's device, and its processor."""

    model: Any
    processor: Any


class HfEngine:
    """One loaded model; that of a folder, an adapter's on its `base`.

    `batch_size` is a cap; without one, batches are as large as the memory allows. `workers` prepare images.
    `compiled` compiles the decoding step also for a few requests, where it does not pay; `expected` requests come in
    all, whatever part of them is asked at a time.
    """

    def __init__(
        self,
        source: Path | LoadedModel,
        images: ImageSize,
        device: str = "cpu",
        dtype: str = "float32",
        base: Path | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        quantization: Quantization | None = None,
        trust_remote_code: bool = False,
        compiled: bool = False,
        expected: int = 0,
        keep: int = 0,
    ) -> None:
        self._device, self._dtype, self._cap = device, dtype, batch_size
        self._loaded = None if isinstance(source, LoadedModel) or quantization else (source, base)
        self._worth_compiling, self._expected = _WORTH_COMPILING, expected
        if isinstance(source, LoadedModel):
            model, processor = source.model, source.processor
            self._worth_compiling = sys.maxsize  # who has it compiles it, and forgetting ours would forget theirs
        else:
            if trust_remote_code:
                print(f"warning: code that lies in {base or source} will run, with all your rights", file=sys.stderr)
            processor = load_processor(source, base, trust_remote_code)
            model = load_model(source, dtype, device, None, base, quantization, trust_remote_code).eval()
        self._tokenizer = processor.tokenizer
        self._preparer = find_preparer(processor, images)
        self._prepared = PreparedRequests(self._preparer, default_workers(device) if workers is None else workers, keep)
        shares = attention.use(model)
        replace_parts(model)
        self._stop = stop_tokens(processor, model)
        pad = self._tokenizer.pad_token_id
        self._generation = Generation(
            model, self._preparer, self._stop, min(self._stop) if pad is None else pad, device, shares, keep
        )
        self._measured_rows: int | None = None  # of a batch: found with the first request
        self._rows: int | None = None  # the same, or fewer after this model ran out of memory
        self._compiled = compiled and self._generation.compiles
        if (compiled or device.startswith("cuda")) and not self._generation.compiles and isinstance(source, Path):
            print(f"decoding is not compiled: {self._generation.obstacle}", file=sys.stderr)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "hf",
            "dtype": self._dtype,
            "device": provenance.device_name(self._device),
            "batch_size": self._cap,
            "image_size": self._preparer.image_size,
        }

    def load(self, folder: Path, base: Path | None, expected: int = 0) -> str | None:
        """Into the tensors that are there, so that compiled code and measured batches stay as they are."""
        if self._loaded is None:
            return "the engine's weights are quantized, or not a folder's"
        reason = difference_beside_weights(*self._loaded, folder, base) or self._generation.load(folder)
        if reason is None:
            self._loaded, self._rows, self._expected = (folder, base), self._measured_rows, expected
        return reason

    def free_memory(self) -> None:
        """Give back all but the model; more may be asked afterwards."""
        self._generation.forget()

    def close(self) -> None:
        self._generation.close()
        del self._generation, self._prepared, self._preparer, self._loaded

    def responses(self, requests: Sequence[Request], decoding: Decoding) -> Generator[Response, None, None]:
        """Answers as their batches finish, the longest first, so that what does not fit in memory shows at once.

        A sampled answer depends on the seed and on its request's key, not on what else is asked.
        """
        longest_first = sorted(requests, key=lambda request: (-request.text_length, request.key))
        batch: list[Prepared] = []
        with clear_worker_errors("--workers"):
            for item in self._prepared.ahead(longest_first):
                if isinstance(item, Unprepared):
                    yield Response(item.key, error=item.reason)
                    continue
                if self._rows is None:
                    self._rows = self._measured_rows = self._find_rows(item, decoding)
                batch.append(item)
                if len(batch) >= self._rows:
                    yield from self._response_batch(batch, decoding, self._pays_compiling(requests))
                    batch = []
            if batch:
                yield from self._response_batch(batch, decoding, self._pays_compiling(requests))

    def _pays_compiling(self, requests: Sequence[Request]) -> bool:
        """By these requests alone: how a model answers must not depend on what the one before it was asked."""
        assert self._rows is not None
        total = max(len(requests), self._expected)
        return self._compiled or (self._generation.compiles and total >= self._worth_compiling * self._rows)

    def _find_rows(self, longest: Prepared, decoding: Decoding) -> int:
        if not self._device.startswith("cuda"):
            return self._cap or _ROWS_ON_CPU
        if self._cap == 1:
            return 1
        try:
            fitting = self._generation.rows_that_fit(longest, decoding)
        except torch.OutOfMemoryError:  # not even the four that it is measured on
            fitting = 1
        rows = fitting if fitting < 8 else fitting // 8 * 8
        return min(rows, self._cap or _ROWS_ON_GPU)

    def _response_batch(self, batch: list[Prepared], decoding: Decoding, compiled: bool) -> Iterator[Response]:
        assert self._rows is not None
        tried = max(self._rows, len(batch)) if compiled else len(batch)
        try:
            if compiled:
                generated = self._generation.compiled(batch, decoding, tried)
            else:
                generated = self._generation.plain(batch, decoding)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            generated, reason = None, first_line(error)  # and not the error itself, which holds this try's tensors
        if generated is not None:
            for prepared, tokens in zip(batch, generated, strict=True):
                yield self._response(prepared, tokens)
            return
        self._generation.forget()
        if tried == 1:
            yield Response(batch[0].key, error=f"out of memory on one example ({reason})")
            return
        half = self._rows = tried // 2
        for start in range(0, len(batch), half):
            yield from self._response_batch(batch[start : start + half], decoding, compiled)

    def _response(self, prepared: Prepared, tokens: list[int]) -> Response:
        end = next((index for index, token in enumerate(tokens) if token in self._stop), None)
        response = tokens if end is None else tokens[:end]
        return Response(
            prepared.key,
            text=self._tokenizer.decode(response, skip_special_tokens=True),
            finish="length" if end is None else "stop",
            prompt_tokens=len(prepared.ids),
            new_tokens=len(response) if end is None else end + 1,
        )
