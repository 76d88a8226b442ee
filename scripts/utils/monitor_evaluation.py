"""How far the evaluations are, from their result files: done, rate, time left, errors, and the GPUs' memory.

    python scripts/utils/monitor_evaluation.py
    python scripts/utils/monitor_evaluation.py --once
    python scripts/utils/monitor_evaluation.py --once --json

Live until Ctrl-C, from any shell of the machine; reads only. "failed" are examples whose inference failed, which the
next run tries again; "format errors" are answers without a plan.
"""

import argparse

from configs.config import WorkspaceConfig
from leap.cli import FAILED, run


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", default=workspace.eva_results, help="the folder of results")
    parser.add_argument("--once", action="store_true", help="show the state of now and stop")
    parser.add_argument("--json", action="store_true", help="one JSON object a time instead of a table")
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, help="seconds between two looks (default %(default)s)"
    )
    arguments = parser.parse_args()

    from leap.report.monitor import print_once, watch

    results = workspace.resolve(arguments.results)
    if arguments.once:
        return None if print_once(results, arguments.json) else FAILED
    try:
        watch(results, arguments.interval, arguments.json)
    except KeyboardInterrupt:  # the way to leave it
        print()
    return None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds above 0 is needed")
    return seconds


if __name__ == "__main__":
    run(main)
