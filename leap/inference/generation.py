"""A batch of prepared requests to new tokens: plain generation, or with a fixed cache and a compiled decoding step."""

import gc
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Cache,
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from leap.inference.fast_parts import compile_parts
from leap.inference.prepare import Prepared, Preparer
from leap.inference.protocol import Decoding
from leap.inference.shared_prefix import SharedPrefix
from leap.inference.vision_states import VisionStates
from leap.models.exchange import copy_weights
from leap.models.families import family

_MEMORY_SHARE = 0.6  # of what is free: 96 rows that took 0.55 GB each did not fit in the 75 GB of an H100, 64 did
_CACHE_STEP = 128  # tokens: caches of few lengths, so that a slightly longer prompt does not compile anew


class Generation:
    """Generates with one model. `stop` and `pad` are token ids; with `shares`, the model attends as
    `leap.inference.attention` does, which lets padding stand behind a shared opening. Up to `keep` bytes of what its
    vision tower sees stay for other weights."""

    def __init__(
        self, model: Any, preparer: Preparer, stop: set[int], pad: int, device: str, shares: bool = False, keep: int = 0
    ) -> None:
        self._model, self._preparer, self._stop, self._pad, self._device = model, preparer, stop, pad, device
        self._cache: Any = None
        self._cache_shape = (0, 0)  # rows, tokens
        self._parts_compiled = False
        self._prefix: SharedPrefix | None = None
        if shares and preparer.image_token_id is not None:
            self._prefix = SharedPrefix(model, device, preparer.image_token_id)
        self._vision: VisionStates | None = None
        if device == "cpu" and family(model.config.model_type).compiled_inference:
            self._vision = VisionStates(model.model.visual, keep)
        self._offsets = [module for module in model.modules() if hasattr(module, "rope_deltas")]
        # What a checkpoint says about sampling and penalties must not reach an evaluation.
        model.generation_config = GenerationConfig(eos_token_id=sorted(stop), pad_token_id=pad)

    @property
    def compiles(self) -> bool:
        """Whether the decoding step can be compiled here."""
        return self.obstacle is None

    @property
    def obstacle(self) -> str | None:
        """Why the decoding step cannot be compiled here; None where it can."""
        if not getattr(self._model, "_can_compile_fullgraph", False):
            return f"transformers knows no fixed cache for {type(self._model).__name__}"
        if not self._device.startswith("cuda"):
            return "there is no NVIDIA GPU"
        if find_spec("triton") is None:
            return "Triton is not installed"
        return None if _c_compiler() else "there is no C compiler"

    @torch.inference_mode()
    def plain(self, batch: Sequence[Prepared], decoding: Decoding) -> list[list[int]]:
        """New token ids of each request, in the batch's order, padding included."""
        greedy_on_cpu = self._device == "cpu" and decoding.temperature == 0
        return self._narrowing(batch, decoding) if self._prefix and greedy_on_cpu else self._generate(batch, decoding)

    @torch.inference_mode()
    def compiled(self, batch: Sequence[Prepared], decoding: Decoding, rows: int) -> list[list[int]]:
        """The same with a cache of `rows` rows that stays in place, which lets a CUDA graph run every decoding step.

        A smaller batch is filled with copies of its last request, so that all batches have one shape.
        """
        if not self._parts_compiled and self.compiles:
            print("compiling: the first batch takes about a minute longer", file=sys.stderr, flush=True)
            compile_parts(self._model)
            self._parts_compiled = True
        filled = [*batch, *[batch[-1]] * (rows - len(batch))]
        longest = max(len(prepared.ids) for prepared in batch) + decoding.max_new_tokens
        step = CompileConfig(fullgraph=False, dynamic=False, mode="reduce-overhead")
        cache = self._static_cache(rows, longest)
        return self._generate(filled, decoding, past_key_values=cache, compile_config=step)[: len(batch)]

    def load(self, folder: Path) -> str | None:
        """Put another model's weights in the place of these; why not, where that fails (`copy_weights`)."""
        if self._prefix:
            self._prefix.forget()
        reason = copy_weights(self._model, folder)
        if self._vision:
            self._vision.load()
        return reason

    def forget(self) -> None:
        """Give back the caches and whatever the last batch left. To be called where the weights have changed."""
        for kept in (self._prefix, self._vision):
            if kept:
                kept.forget()
        self._drop_cache()

    def _drop_cache(self) -> None:
        self._cache, self._cache_shape = None, (0, 0)
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Give back the model's memory too; compiled code would keep hold of it."""
        del self._model, self._offsets
        if self._parts_compiled:
            torch._dynamo.reset()
        self._prefix = self._vision = None
        gc.collect()
        self.forget()

    def rows_that_fit(self, prepared: Prepared, decoding: Decoding) -> int:
        """How many requests like this one a batch may hold in the free memory, measured on two and on four of them,
        which share their opening as a batch does."""
        two, four = (self._peak_bytes([prepared] * rows) for rows in (2, 4))
        row = (four - two) / 2 + decoding.max_new_tokens * self._cache_bytes_of_a_token()
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(self._device)[0]
        return max(1, int(free * _MEMORY_SHARE / row))

    def _peak_bytes(self, batch: Sequence[Prepared]) -> int:
        torch.cuda.reset_peak_memory_stats(self._device)
        self.plain(batch, Decoding(max_new_tokens=1))
        return torch.cuda.max_memory_allocated(self._device)

    def _cache_bytes_of_a_token(self) -> int:
        text = self._model.config.get_text_config(decoder=True)
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return 2 * text.num_hidden_layers * heads * width * self._model.dtype.itemsize

    def _static_cache(self, rows: int, tokens: int) -> StaticCache:
        tokens = -(-tokens // _CACHE_STEP) * _CACHE_STEP
        if self._cache is None or rows != self._cache_shape[0] or tokens > self._cache_shape[1]:
            self._drop_cache()
            text = self._model.config.get_text_config(decoder=True)
            self._cache, self._cache_shape = StaticCache(config=text, max_cache_len=tokens), (rows, tokens)
        else:
            self._cache.reset()
        return self._cache

    def _narrowing(self, batch: Sequence[Prepared], decoding: Decoding) -> list[list[int]]:
        """Greedy, in stages: once half of the rows have ended, the others go on without them. A CPU computes a row
        whether it has ended or not, and most responses are much shorter than the longest of their batch."""
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        inputs = self._inputs(batch, cache)
        found: list[list[int]] = [[] for _ in batch]
        rows, made = list(range(len(batch))), 0
        while True:
            output = self._model.generate(
                **inputs,
                past_key_values=cache,
                do_sample=False,
                max_new_tokens=decoding.max_new_tokens - made,
                min_new_tokens=max(0, decoding.min_new_tokens - made),
                stopping_criteria=StoppingCriteriaList([_HalfEnded(self._stop, len(rows))]),
            )
            new = output[:, inputs["input_ids"].shape[1] :]
            for row, tokens in zip(rows, new.tolist(), strict=True):
                found[row] += tokens
            made += new.shape[1]
            kept = [place for place, row in enumerate(rows) if self._stop.isdisjoint(found[row])]
            if not kept or made == decoding.max_new_tokens:
                return found
            rows = [rows[place] for place in kept]
            cache.batch_select_indices(torch.tensor(kept))
            for module in self._offsets:
                module.rope_deltas = None if module.rope_deltas is None else module.rope_deltas[kept]
            mask = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
            inputs = {"input_ids": output[kept], "attention_mask": mask[kept]}

    def _inputs(self, batch: Sequence[Prepared], cache: Cache | None) -> dict[str, torch.Tensor]:
        """The model's arguments; the opening that all share goes into the cache, which is empty, where there is one."""
        self._forget_offsets()
        shared = self._prefix.find([request.ids for request in batch]) if self._prefix and cache is not None else 0
        if self._prefix and shared:
            assert cache is not None
            self._prefix.fill(cache, len(batch))
            self._forget_offsets()
        return self._preparer.batch(batch, self._pad, self._device, self._model.dtype, shared)

    def _forget_offsets(self) -> None:
        """Of another batch's images, or of the opening: transformers 5.17 would take them for this batch's."""
        for module in self._offsets:
            module.rope_deltas = None

    def _generate(self, batch: Sequence[Prepared], decoding: Decoding, **options: Any) -> list[list[int]]:
        if self._prefix and "past_key_values" not in options:
            options["past_key_values"] = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        inputs = self._inputs(batch, options.get("past_key_values"))
        if decoding.temperature > 0:
            options["logits_processor"] = _sampling(decoding, [request.key for request in batch], self._device)
        if decoding.min_new_tokens:
            options["min_new_tokens"] = decoding.min_new_tokens
        output = self._model.generate(**inputs, max_new_tokens=decoding.max_new_tokens, do_sample=False, **options)
        return output[:, inputs["input_ids"].shape[1] :].tolist()


class _HalfEnded(StoppingCriteria):
    """Stops all rows when half of them have ended; one that is left goes on to its end."""

    def __init__(self, stop: set[int], rows: int) -> None:
        self._stop, self._ended = torch.tensor(sorted(stop)), torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:
        self._ended |= torch.isin(input_ids[:, -1], self._stop)
        half = 2 * int(self._ended.sum()) >= len(self._ended)
        return torch.full_like(self._ended, half)  # type: ignore[return-value]


def _sampling(decoding: Decoding, keys: Sequence[tuple[str, ...]], device: str) -> LogitsProcessorList:
    """What makes of the likeliest token a sampled one."""
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(decoding.temperature)]
    if decoding.top_p < 1:
        steps.append(TopPLogitsWarper(decoding.top_p))
    return LogitsProcessorList([*steps, _Gumbel([decoding.of_request(key).seed for key in keys], device)])


class _Gumbel(LogitsProcessor):
    """Adds noise under which the largest logit is a draw from their softmax (Gumbel 1954; Maddison et al. 2014).

    The library's own sampling draws for a whole batch at once. Here every row has a generator, so that a response does
    not depend on what it was batched with, and a run that goes on ends with the responses of an unbroken one.
    """

    def __init__(self, seeds: Sequence[int], device: str) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - drawn.log()


def _c_compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
