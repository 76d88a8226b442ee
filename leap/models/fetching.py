"""Models that a command line names, on this machine before any work: folders, or models of the hub."""

import argparse
from pathlib import Path
from typing import Any

from leap.hub.hub_models import HubModel, fetch_model
from leap.models.checkpoints import ADAPTER, named_base


def fetch_models(arguments: argparse.Namespace, root: Path) -> None:
    """Each flag that names a model of the hub (`find_model`) has its folder then, and adapters have their bases.

    Call it when all that is wrong with the command line itself has been said. Raises what `fetch_model` raises.
    """
    for flag, value in list(vars(arguments).items()):
        setattr(arguments, flag, [_fetched(one, root) for one in value] if _is_list(value) else _fetched(value, root))
    if getattr(arguments, "base_model_path", None) is None:
        places = [one for value in vars(arguments).values() for one in (value if _is_list(value) else [value])]
        for folder in (one for one in places if isinstance(one, Path) and (one / ADAPTER).is_file()):
            if base := named_base(folder, root):
                fetch_model(base, root)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _fetched(value: Any, root: Path) -> Any:
    return fetch_model(value, root) if isinstance(value, HubModel) else value
