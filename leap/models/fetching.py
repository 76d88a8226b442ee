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

    def fetched(value: Any) -> Any:
        if isinstance(value, list):
            return [fetched(one) for one in value]
        folder = fetch_model(value, root) if isinstance(value, HubModel) else value
        if (
            isinstance(folder, Path)
            and (folder / ADAPTER).is_file()
            and not given
            and (base := named_base(folder, root))
        ):
            fetch_model(base, root)
        return folder

    given = getattr(arguments, "base_model_path", None)
    for flag, value in list(vars(arguments).items()):
        setattr(arguments, flag, fetched(value))
