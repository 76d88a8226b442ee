"""Learning-rate schedules and reporting libraries, checked before a run starts rather than in its first step."""

import math
from typing import Any

from leap.errors import LeapError
from leap.training.recipe import Recipe


def warmup_steps(recipe: Recipe, steps: int) -> int:
    """Optimiser steps of the warm-up in a run of `steps`."""
    return recipe.warmup_steps if recipe.warmup_ratio is None else math.ceil(recipe.warmup_ratio * steps)


def check_schedule(recipe: Recipe, steps: int) -> None:
    """Build the schedule once for an optimiser of one weight. Raises LeapError where its own values do not fit it."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate)
    values: dict[str, Any] = dict(recipe.lr_scheduler_kwargs or {})
    warm = warmup_steps(recipe, steps)
    try:
        (factor,) = get_scheduler(recipe.lr_scheduler_type, optimizer, warm, steps, values).lr_lambdas
        seen = [factor(step) for step in (0, steps // 4, steps // 2, steps - 1)]
        if not all(0 <= value <= 1 + 1e-6 for value in seen) or (warm < steps and not factor(warm) > 0):
            raise ValueError("the rate would leave the range from 0 to learning_rate")
    except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as error:
        kind = f"lr_scheduler_type={recipe.lr_scheduler_type}"
        raise LeapError(f"lr_scheduler_kwargs: {values or 'null'} does not fit {kind} ({error})") from error


def check_reports(report_to: str) -> list[str]:
    """The names in `report_to`. Raises LeapError where accelerate does not know a tracker, or it is not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    names = [name.strip() for name in report_to.split(",")]
    there, known = [str(tracker) for tracker in get_available_trackers()], list(map(str, LOGGER_TYPE_TO_CLASS))
    if names in (["none"], ["all"]):
        return there if names == ["all"] else []
    for name in names:
        if name not in known:
            raise LeapError(f"report_to: {name} is unknown; there are: none, all, {', '.join(known)}")
        if name not in there:
            raise LeapError(f"report_to: {name} is not installed here; pip install it, or take tensorboard or none")
    return names
