"""Early stopping, and which checkpoint is the best: by the validation loss, from the Trainer's own log of it."""

import math
from collections.abc import Collection, Sequence
from typing import Any

Log = Sequence[dict[str, Any]]  # `log_history` of a Trainer's state


def validation_losses(log: Log) -> dict[int, float]:
    """Step -> validation loss, in the order of the steps."""
    return {entry["step"]: entry["eval_loss"] for entry in log if "eval_loss" in entry}


def best_step(log: Log, among: Collection[int] | None = None) -> int | None:
    """The step with the lowest validation loss (the first of equals), of those in `among`; None where none is known.

    A loss that is no number is none.
    """
    losses = {
        step: loss
        for step, loss in validation_losses(log).items()
        if math.isfinite(loss) and (among is None or step in among)
    }
    return min(losses, key=losses.__getitem__) if losses else None


def has_stopped(log: Log, patience: int | None) -> bool:
    """Whether the last `patience` evaluations brought no lower loss."""
    steps, best = list(validation_losses(log)), best_step(log)
    return patience is not None and best is not None and len(steps) - 1 - steps.index(best) >= patience
