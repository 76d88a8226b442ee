"""The responses of a group behind their prompt, which goes through the model once.

TRL gives the model a row a response, each with its own copy of the prompt, which is nearly all of a row where two
images are asked about and the answer is a short plan. Here a row is a group: the prompt but its last token, then for
each response that token again and the response. A response attends to the prompt and to itself, at the positions that
it would have alone, so that its log-probabilities are the same, and the prompt's gradients are the sum over its copies.
(The last token is repeated because it predicts each response's first one, and a position has one label. A group of many
long responses has several rows.)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from leap.data.chat_encoding import IGNORED
from leap.reinforcement.shared_work import OF_IMAGES, copies, images_by_row, images_of

_ROW = 8192  # tokens of a row, at most: its mask has the square of it


@dataclass(frozen=True)
class SharedPrompts:
    """Arguments of the model, a row a group, and where each response's labels are.

    `places` [responses, tokens of a response] are places in the flattened rows, of any value where `known` is False.
    """

    inputs: dict[str, Tensor]
    places: Tensor
    known: Tensor

    def of_responses(self, values: Tensor) -> Tensor:
        """[groups, row] to [responses, tokens of a response], 0 where there is no token."""
        return values.flatten()[self.places] * self.known


def share_prompts(
    model: Any, input_ids: Tensor, attention_mask: Tensor, response_length: int, images: dict[str, Any], pad: int
) -> SharedPrompts | None:
    """None where no two responses have a prompt in common. Prompts are padded on the left, responses on the right, the
    last `response_length` columns. `model` is Qwen3-VL's, `images` its pixel_values, image_grid_thw, num_images and
    mm_token_type_ids."""
    width = input_ids.shape[1] - response_length
    prompts, responses = input_ids[:, :width], input_ids[:, width:]
    lengths: list[int] = attention_mask[:, width:].sum(dim=1).tolist()
    found = _groups(prompts, images)
    if len(found) == len(input_ids):
        return None
    first_alike = _first_alike(found, responses, lengths)
    groups = [
        part
        for group in found
        for part in _parts([row for row in group if first_alike[row] == row], lengths, _ROW - width)
    ]
    first = torch.tensor([rows[0] for rows in groups], device=input_ids.device)
    shown = images_of([rows[0] for rows in groups], images) if images.get("pixel_values") is not None else {}
    positions = _positions(model, prompts[first], attention_mask[first, :width], images, first, shown, width)
    rows = [
        _row(prompts[group[0]][attention_mask[group[0], :width].bool()], position,
             [responses[row, : lengths[row]] for row in group])
        for group, position in zip(groups, positions, strict=True)
    ]  # fmt: skip
    shared = _joined(rows, groups, lengths, responses.shape, shown, pad)
    return replace(shared, places=shared.places[first_alike], known=shared.known[first_alike])


def _groups(prompts: Tensor, images: dict[str, Any]) -> list[list[int]]:
    """Rows by their prompt: its tokens, and what its images hold."""
    seen: list[int] = [0] * len(prompts)
    if images.get("pixel_values") is not None:
        seen, _ = copies(images_by_row(images)[0])
    found: dict[tuple[int, ...], list[int]] = {}
    for row, ids in enumerate(prompts.tolist()):
        found.setdefault((seen[row], *ids), []).append(row)
    return list(found.values())


def _first_alike(groups: list[list[int]], responses: Tensor, lengths: list[int]) -> list[int]:
    """Of each response the first of its group with the same tokens, which stands for all of them: a sure model says
    the same again and again."""
    found = list(range(len(responses)))
    for group in groups:
        seen = dict[tuple[int, ...], int]()
        for row in group:
            found[row] = seen.setdefault(tuple(responses[row, : lengths[row]].tolist()), row)
    return found


def _parts(group: list[int], lengths: list[int], room: int) -> Iterator[list[int]]:
    """As many responses as a row has room for beside their prompt, and at least one."""
    part, tokens = list[int](), 0
    for row in group:
        if part and tokens + 1 + lengths[row] > room:
            yield part
            part, tokens = [], 0
        part.append(row)
        tokens += 1 + lengths[row]
    yield part


def _positions(
    model: Any,
    prompts: Tensor,
    mask: Tensor,
    images: dict[str, Any],
    first: Tensor,
    shown: dict[str, Tensor],
    width: int,
) -> list[Tensor]:
    """Of each prompt's tokens, padding left out: [3, tokens]."""
    if shown:
        kinds = images["mm_token_type_ids"][first, :width]
        grid = shown["image_grid_thw"]
        found, _ = model.model.get_rope_index(prompts, kinds, image_grid_thw=grid, attention_mask=mask)
    else:
        found = (mask.cumsum(dim=1) - 1).expand(3, -1, -1)
    return [found[:, row, of_row.bool()] for row, of_row in enumerate(mask)]


@dataclass(frozen=True)
class _Row:
    """[row] tokens, labels and branches (0 the prompt, then one for each response), [3, row] positions."""

    ids: Tensor
    labels: Tensor
    branches: Tensor
    positions: Tensor
    starts: list[int]  # of each branch


def _row(prompt: Tensor, positions: Tensor, responses: list[Tensor]) -> _Row:
    last, known = prompt[-1:], len(prompt) - 1
    ids, labels, branches = [prompt[:-1]], [torch.full_like(prompt[:-1], IGNORED)], [torch.zeros_like(prompt[:-1])]
    places, starts, start = [positions[:, :-1]], [], known
    for number, response in enumerate(responses, start=1):
        branch = torch.cat([last, response])
        starts.append(start)
        start += len(branch)
        ids.append(branch)
        labels.append(torch.cat([response, torch.full_like(last, IGNORED)]))
        branches.append(torch.full_like(branch, number))
        places.append(positions[:, -1:] + torch.arange(len(branch), device=branch.device))
    return _Row(torch.cat(ids), torch.cat(labels), torch.cat(branches), torch.cat(places, dim=1), starts)


def _joined(
    rows: list[_Row],
    groups: list[list[int]],
    lengths: list[int],
    shape: torch.Size,
    shown: dict[str, Tensor],
    pad: int,
) -> SharedPrompts:
    width = max(len(row.ids) for row in rows)

    def padded(values: list[Tensor], fill: int) -> Tensor:
        return torch.stack(
            [torch.nn.functional.pad(value, (0, width - value.shape[-1]), value=fill) for value in values]
        )

    branches = padded([row.branches for row in rows], -1)
    order = torch.arange(width, device=branches.device)
    own = branches[:, :, None] == branches[:, None, :]  # padding attends to padding: a row of no number would be NaN
    shared = (branches[:, None, :] == 0) & (branches[:, :, None] >= 0)
    allowed = (own | shared) & (order[:, None] >= order)
    places = torch.zeros(shape, dtype=torch.long, device=branches.device)
    known = torch.zeros(shape, dtype=torch.bool, device=branches.device)
    for number, (row, group) in enumerate(zip(rows, groups, strict=True)):
        for start, response in zip(row.starts, group, strict=True):
            length = lengths[response]
            places[response, :length] = number * width + start + order[:length]
            known[response, :length] = True
    inputs = {
        "input_ids": padded([row.ids for row in rows], pad),
        "attention_mask": allowed[:, None],
        "position_ids": padded([row.positions for row in rows], 0).transpose(0, 1),
        "shift_labels": padded([row.labels for row in rows], IGNORED),
        **shown,
    }
    return SharedPrompts(inputs, places, known)


def share_sampling(model: Any) -> None:
    """Let `model.generate` read each prompt of a batch once, in place, where every one stands there as often as the
    others, its copies one behind the other, and keep its keys and values once: a step's tokens of a group are one row,
    behind its prompt and the earlier tokens of all of its responses, each seeing its own. (Copied keys and values are
    nearly all that a step reads.) What is sampled from the logits is the library's part. Positions are Qwen3-VL's."""
    original: Callable[..., Any] = model.generate

    def generate(**inputs: Any) -> Any:
        rows = _repeated(model, inputs)
        if rows is None:
            return original(**inputs)
        first, repeats, images = rows
        cache = _Branches(model.config.get_text_config())
        prompt = {
            name: inputs[name][first, :-1] for name in ("input_ids", "attention_mask", "mm_token_type_ids")
        }  # generation needs a token to begin with
        model(**prompt, **images, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.begin(repeats)
        model.model.rope_deltas = model.model.rope_deltas.repeat_interleave(repeats, dim=0)
        kept = {name: value for name, value in inputs.items() if name not in (*OF_IMAGES, "mm_token_type_ids")}
        forward = model.forward
        model.forward = _one_token(model, forward, prompt["attention_mask"].bool(), repeats)
        try:
            return original(**kept, past_key_values=cache)
        finally:
            model.forward = forward

    model.generate = generate


class _Branches(DynamicCache):
    """Keys and values of prompts, then at each step those of a token of each of a prompt's responses. The length is
    that of a prompt and one response, which is what generation counts."""

    _prompt, _repeats = 0, 0

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)

    def begin(self, repeats: int) -> None:
        self._prompt, self._repeats = self.get_seq_length(), repeats

    def get_seq_length(self, layer_idx: int = 0) -> int:
        length: int = super().get_seq_length(layer_idx)
        return self._prompt + (length - self._prompt) // self._repeats if self._repeats else length


def _one_token(model: Any, forward: Callable[..., Any], seen: Tensor, repeats: int) -> Callable[..., Any]:
    """`forward` for a step of generation, whose rows are responses. `seen` [prompts, tokens]: what is no padding."""
    own = torch.eye(repeats, dtype=torch.bool, device=seen.device)
    of_prompt = seen[:, None].expand(-1, repeats, -1)
    first = seen.sum(dim=1, keepdim=True) + model.model.rope_deltas[::repeats]

    def step(input_ids: Tensor, past_key_values: _Branches, **_: Any) -> Any:
        before = past_key_values.get_seq_length() - seen.shape[1]
        of_response = own.repeat(1, before + 1).expand(len(seen), -1, -1)
        found = forward(
            input_ids=input_ids.view(len(seen), repeats),
            attention_mask=torch.cat([of_prompt, of_response], dim=2)[:, None],
            position_ids=(first + before).expand(3, -1, repeats),
            past_key_values=past_key_values,
            use_cache=True,
        )
        found.logits = found.logits.view(len(input_ids), 1, -1)
        return found

    return step


def _repeated(model: Any, inputs: dict[str, Any]) -> tuple[list[int], int, dict[str, Tensor]] | None:
    """The first row of each prompt, how often each stands, and the images of these; None for rows in another order."""
    if inputs.get("pixel_values") is None:
        return None
    ids = inputs["input_ids"]
    counts = (ids == model.config.vision_start_token_id).sum(dim=1).tolist()
    images = {**{name: inputs[name] for name in OF_IMAGES}, "num_images": counts}
    groups = _groups(ids, images)
    repeats = len(groups[0])
    if repeats == 1 or [row for group in groups for row in group] != list(range(len(ids))):
        return None
    if any(len(group) != repeats for group in groups):
        return None
    first = [group[0] for group in groups]
    return first, repeats, images_of(first, images)
