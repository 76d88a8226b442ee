"""Schedules of learning rate and validation, and trackers: checked before a run starts, not in its first step."""

import math
from typing import Any

from leap.errors import LeapError
from leap.training.recipe import Recipe

_SAMPLED = 10_000  # steps
_ROUNDING = 1e-6  # of a share of learning_rate


def warmup_steps(recipe: Recipe, steps: int) -> int:
    """Optimiser steps of the warm-up in a run of `steps`."""
    return recipe.warmup_steps if recipe.warmup_ratio is None else math.ceil(recipe.warmup_ratio * steps)


def check_schedule(recipe: Recipe, steps: int) -> None:
    """Raises LeapError where a run of `steps` would not reach learning_rate, and not train at it or less from there.

    The schedule is built for an optimiser of one weight, and asked for its rates.
    """
    import torch
    from transformers import get_scheduler

    warmup, values = warmup_steps(recipe, steps), dict(recipe.lr_scheduler_kwargs or {})
    if warmup >= steps:
        given, fewer = f"warmup_steps={warmup}", f"--warmup_steps {steps // 10}"
        if recipe.warmup_ratio:
            given, fewer = f"warmup_ratio={recipe.warmup_ratio}", f"--warmup_ratio {0.1 if steps >= 10 else 0}"
        raise LeapError(
            f"{given}: the run has {steps} steps, so that it would end before it reaches "
            f"learning_rate={recipe.learning_rate}; give fewer ({fewer}) or more steps"
        )
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate)
    try:
        scheduler: Any = get_scheduler(recipe.lr_scheduler_type, optimizer, warmup, steps, values)
        (share,) = scheduler.lr_lambdas
        before, after = ([float(share(step)) for step in _sampled(*span)] for span in ((0, warmup), (warmup, steps)))
        reason = _odd_rates(before, after)
    except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as error:
        reason = str(error) or type(error).__name__
    if reason:
        kind = f"lr_scheduler_type={recipe.lr_scheduler_type}"
        raise LeapError(f"lr_scheduler_kwargs: {values or 'null'} does not fit {kind} in {steps} steps ({reason})")


def _sampled(first: int, end: int) -> range:
    """These steps, or so many of them that a long run is checked in no time."""
    return range(first, end, max(1, (end - first) // _SAMPLED))


def _odd_rates(before: list[float], after: list[float]) -> str:
    """What is wrong with a schedule whose rates are these shares of learning_rate, in its warm-up and after; or ""."""
    highest, lowest = max(before + after), min(before + after)
    if not math.isfinite(sum(before + after)):
        return "its rates are no numbers"
    if lowest < 0:
        return f"its rate falls to {lowest:.3g} times learning_rate"
    if highest > 1 + _ROUNDING:
        return f"its rate rises to {highest:.3g} times learning_rate"
    if after[0] < 1 - _ROUNDING:
        return f"after the warm-up its rate is {after[0]:.3g} times learning_rate"
    idle = sum(share <= _ROUNDING**2 for share in after)
    return f"its rate is 0 in {idle / len(after):.0%} of the steps" if idle > 1 else ""


def check_stopping(patience: int | None, eval_steps: int | None, steps: int) -> None:
    """Raises LeapError where early stopping could not end the run before its last step."""
    if patience and eval_steps and (patience + 1) * eval_steps >= steps:
        raise LeapError(
            f"early_stopping_patience={patience}: with a validation every {eval_steps} of {steps} steps it can never "
            "end the run early; lower it or eval_steps, or leave it out"
        )


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
