"""Is the VLABench submodule there, at which commit, and does its scorer agree with LEAP's on the golden vectors?

    git submodule update --init VLABench
    python scripts/utils/check_vlabench.py

Exit code 0: there and in agreement. 1: not there, not whole, another version, or a difference.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FAILED, Parser, run


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    parser, find = Parser(__doc__), workspace.resolve
    parser.add_argument("--vlabench", type=find, default=workspace.vlabench, help="the checkout")
    golden = workspace.repository / "tests" / "data" / "golden" / "scoring_public.jsonl"
    parser.add_argument("--golden", type=find, default=golden, help="golden vectors to compare the scorers on")
    arguments = parser.parse_args()

    from leap.vlabench.prompts import LANGUAGES
    from leap.vlabench.scorer_agreement import compare_requests, compare_scorers
    from leap.vlabench.upstream import COMMIT, find_upstream

    upstream = find_upstream(arguments.vlabench)
    if upstream is None:
        print(f"{arguments.vlabench} is not checked out: git submodule update --init VLABench")
        print("LEAP works without it, with its own scorer and prompt.")
        return FAILED
    right_commit = upstream.commit == COMMIT
    print(f"checkout  {arguments.vlabench}")
    print(f"commit    {upstream.commit or 'unknown'}, {'as expected' if right_commit else f'not {COMMIT}'}")
    for language in LANGUAGES:
        upstream.instructions(language)
        print(f"prompt    {language}: as expected, byte for byte")
    same_order = compare_requests(upstream)
    print(f"requests  {'the same texts and images in the same order' if same_order else 'DIFFERENT'}")
    compared, different = compare_scorers(upstream, arguments.golden)
    for case in different[:10]:
        print(f"scorer    DIFFERENT on {case}")
    print(f"scorer    {compared - len(different)} of {compared} golden vectors alike")
    return None if right_commit and same_order and not different else FAILED


if __name__ == "__main__":
    run(main)
