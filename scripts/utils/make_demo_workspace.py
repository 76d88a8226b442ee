"""Make the demo workspace: rendered tabletop scenes, a benchmark in VLABench's format, samples, the base model.

    python scripts/utils/make_demo_workspace.py
    python scripts/utils/make_demo_workspace.py --root /tmp/tiny --tasks_per_dimension 1 --training_samples 30 --size 99
    LEAP_ROOT=demo python -m configs.config        # look around in it

The folder is a LEAP_ROOT of its own: nothing of the demo touches the real data, models and results.
"""

import time
from dataclasses import fields
from pathlib import Path

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import REPOSITORY
from leap.cli import Parser, count, run, seed
from leap.records.paths import find_path

_HELP = {
    "seed": "the same seed gives the same texts and scenes",
    "tasks_per_dimension": "benchmark tasks in each of the six dimensions",
    "examples_per_task": "validation scenes a task",
    "training_samples": "samples of train_demo.jsonl",
    "size": "pixels of one of an image's four views",
}


def _from_here(text: str) -> Path:
    """As LEAP_ROOT names a workspace: from the current folder."""
    return find_path(text, Path.cwd())


def main() -> None:
    from leap.progress import duration
    from leap.tabletop.demo_workspace import DemoSize, make_workspace

    parser = Parser(__doc__)
    parser.add_argument("--root", type=_from_here, default=REPOSITORY / "demo", help="the workspace's folder")
    for field in fields(DemoSize):
        parser.add_argument(
            f"--{field.name}",
            type=seed if field.name == "seed" else count,
            default=field.default,
            help=f"{_HELP[field.name]} (default %(default)s)",
        )
    arguments = parser.parse_args()
    started = time.monotonic()
    size = DemoSize(**{field.name: getattr(arguments, field.name) for field in fields(DemoSize)})
    if make_workspace(arguments.root.resolve(), size):
        print(f"the demo workspace is in {arguments.root} (made in {duration(time.monotonic() - started)})")
    else:
        print(f"the demo workspace is in {arguments.root} already")


if __name__ == "__main__":
    run(main)
