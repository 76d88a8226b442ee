"""How far the evaluations are, from their result files: done, rate, time left, errors, and the GPUs' memory.

    python scripts/utils/monitor_evaluation.py
    python scripts/utils/monitor_evaluation.py --once
    python scripts/utils/monitor_evaluation.py --once --json

Live until Ctrl-C, from any shell of the machine; reads only. "failed" are examples whose inference failed, which the
next run tries again; "format errors" are answers without a plan.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FAILED, Parser, run, some_seconds
from leap.errors import UsageError


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--results", type=find, default=workspace.eva_results, help="the folder of results")
    add("--once", action="store_true", help="show the state of now and stop")
    add("--json", action="store_true", help="one JSON object a time instead of a table")
    add("--interval", type=some_seconds, help="seconds between two looks (default 2)")
    arguments = parser.parse_args()
    if arguments.once and arguments.interval:
        raise UsageError("--once looks a single time: --interval does nothing with it")

    from leap.report.monitor_view import print_once, watch

    results = arguments.results
    if arguments.once:
        return None if print_once(results, arguments.json) else FAILED
    try:
        watch(results, arguments.interval or 2.0, arguments.json)
    except KeyboardInterrupt:  # the way to leave it
        print()
    return None


if __name__ == "__main__":
    run(main)
