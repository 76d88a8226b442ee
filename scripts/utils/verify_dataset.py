"""Is the VLABench data set on disk complete and usable? A table of every dimension and task, and all that is wrong.

    python scripts/utils/verify_dataset.py
    python scripts/utils/verify_dataset.py --json
    python scripts/utils/verify_dataset.py --data_path demo/dataset/vlm_evaluation_v1.0 --partial
    python scripts/utils/verify_dataset.py --quarantine

Of each example: its files are there, its images decode, its plan has the benchmark's form, at least one subtask that
the score recognises, and plausible object numbers. Notes are oddities that the evaluation can live with. What should
be there is what the hub listed at the download; where no listing was kept, completeness is unknown.
--quarantine moves broken examples to a folder beside the data set, from which --restore FILE brings them back.
Exit code 0: no problem. 1: problems, also where their examples have just been moved away.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FAILED, Parser, run
from leap.errors import UsageError


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--data_path", type=find, default=workspace.vlm_evaluation, help="its folder")
    add("--partial", action="store_true", help="some of what the hub listed may be missing")
    add("--json", action="store_true", help="one JSON object instead of tables")
    add("--quarantine", action="store_true", help="move broken examples out of the data set")
    add("--restore", type=find, metavar="FILE", help="put back what a restore file names, and do nothing else")
    arguments = parser.parse_args()
    if arguments.restore and arguments.quarantine:
        raise UsageError("--restore puts back what --quarantine moved away: give one of them")

    from leap.preparation.check.benchmark_check import quarantine, verify_benchmark
    from leap.preparation.check.image_facts import FactStore
    from leap.records.quarantine import restore
    from leap.report.verification import print_verification

    if arguments.restore:
        print(f"restored {restore(arguments.restore)}")
        return None
    data, store = arguments.data_path, FactStore(workspace.cache)
    restore_file = None
    if arguments.quarantine:
        found, restore_file = quarantine(data, store, arguments.partial)
    else:
        found = verify_benchmark(data, store, arguments.partial)
    print_verification(found, restore_file, arguments.json)
    return FAILED if found.problems else None


if __name__ == "__main__":
    run(main)
