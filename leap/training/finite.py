"""Losses, gradients and weights that are no numbers end a run before anything of them is saved."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leap.errors import LeapError
from leap.models.checkpoints import find_checkpoints, is_resumable
from leap.training.ranks import Ranks

_NAMED = 40  # samples in an error


@dataclass
class StepLosses:
    """Losses (step, samples, loss) and gradient norms by step since the last look at them, still on the device."""

    losses: list[tuple[int, list[int], Tensor]] = field(default_factory=list)
    norms: dict[int, Any] = field(default_factory=dict)

    def refuse_non_finite(
        self,
        ranks: Ranks,
        output: Path,
        place: Callable[[int], str],
        weights: Iterable[nn.Parameter],
        step: int,
        complete: Callable[[], None],
    ) -> None:
        """Raises LeapError in all ranks where a loss, a gradient, or a weight after `step` is not finite in any.

        `place` says where a sample stands; `weights` are those that may be saved now. `complete` waits until the newest
        checkpoint is whole, which the error names.
        """
        trouble = self._trouble(place)
        if not trouble and not _all_finite(weights):
            trouble = f"a weight is not finite after step {step}"
        if found := [text for text in ranks.gather(trouble) if text]:
            complete()
            remedy = "look at these samples, or use a lower learning rate or more warm-up steps"
            raise LeapError(f"{found[0]}. {nothing_saved(output)}: {remedy}")

    def _trouble(self, place: Callable[[int], str]) -> str:
        """The first step with a loss or gradient that is not finite, and its samples; empty where there is none."""
        if _all_finite([*(loss for *_, loss in self.losses), *self.norms.values()]):
            return ""
        for step, samples, loss in self.losses:
            if not math.isfinite(loss):
                return f"step {step}: the loss is {float(loss)} on the samples {_places(samples, place)}"
        step = next(step for step, norm in self.norms.items() if not math.isfinite(norm))
        samples = [sample for other, samples, _ in self.losses for sample in samples if other == step]
        return f"step {step}: the gradient is {float(self.norms[step])} on the samples {_places(samples, place)}"


def nothing_saved(output: Path) -> str:
    """What is left to a run that ends."""
    whole = [folder for folder in find_checkpoints(output) if is_resumable(folder)]
    return f"Nothing of it is saved ({f'{whole[-1]} is whole' if whole else 'no checkpoint yet'})"


def _places(samples: list[int], place: Callable[[int], str]) -> str:
    more = f" and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
    return ", ".join(map(place, sorted(samples)[:_NAMED])) + more


def _all_finite(values: Iterable[Any]) -> bool:
    """Whether all numbers of all tensors are finite, with one wait for the device."""
    found = [torch.isfinite(value).all() for value in map(_local, values)]
    devices = {one.device for one in found}
    return all(bool(torch.stack([one for one in found if one.device == device]).all()) for device in devices)


def _local(value: Any) -> Tensor:
    """A tensor of this rank's own; numbers become one, and of a divided tensor it is this rank's part."""
    value = value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
    return value.to_local() if hasattr(value, "to_local") else value
