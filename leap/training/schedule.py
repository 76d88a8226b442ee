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
    try:
        get_scheduler(recipe.lr_scheduler_type, optimizer, warmup_steps(recipe, steps), steps, values)
    except (TypeError, ValueError) as error:
        kind = f"lr_scheduler_type={recipe.lr_scheduler_type}"
        raise LeapError(f"lr_scheduler_kwargs: {values or 'null'} does not fit {kind} ({error})") from error


def check_reports(report_to: str) -> list[str]:
    """The names in `report_to`. Raises LeapError for one that the Trainer does not know or that is not installed."""
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    names = [name.strip() for name in report_to.split(",")]
    if names in (["none"], ["all"]):
        return names
    there = get_available_reporting_integrations()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise LeapError(f"report_to: {name} is unknown; there are: none, all, {', '.join(INTEGRATION_TO_CALLBACK)}")
        if name not in [*there, "flyte", "kubeflow"]:  # these two the Trainer does not look for
            raise LeapError(f"report_to: {name} is not installed here; pip install it, or take tensorboard or none")
    return names
