"""Make a training and a test file from LOVE-Agibot episodes and examples in the benchmark's format, with a data card.

    python scripts/utils/build_training_file.py
    python scripts/utils/build_training_file.py --train_samples 151230 --test_samples 16812
    python scripts/utils/build_training_file.py --vlabench dataset/my_examples --exclude duplicates overlap
    python scripts/utils/build_training_file.py --annotations task_info/task_327.json --output_dir data/task_327

Annotations are AgiBot World's task_info files (data/task_info), or LOVE-Agibot's (data/love_agibot/json; both are
described in leap/preparation/agibot/annotations.py), images <task>-<episode>.png as
prepare_love_agibot.py makes them. No episode is on both sides. Writes train_<samples>.jsonl, test_<samples>.jsonl, and
data_card.md, .json and .png: counts, lengths, copies of images, overlap with the evaluation, what was left out.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import REPOSITORY, WorkspaceConfig
from leap.cli import Parser, count, run, seed, whole


def main() -> None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--annotations", type=find, help="a file or folder (default: data/task_info, else data/love_agibot/json)")
    add("--images", type=find, default=workspace.images, help="its images")
    add("--vlabench", type=find, help="a folder of examples in the benchmark's format, not the evaluation's own")
    add("--evaluation", type=find, default=workspace.vlm_evaluation, help="images that training must not see")
    add("--output_dir", type=find, default=workspace.data, help="where the files go")
    add("--train_samples", type=count, help="exactly so many (default: all that the test leaves)")
    add("--test_samples", type=whole, help="exactly so many (default: 10.005 %% of all)")
    add("--seed", type=seed, default=42, help="of split and wording")
    add("--near_bits", type=whole, default=4, help="hashes this near look alike")
    kinds = ("duplicates", "near-duplicates", "overlap", "near-overlap")
    add("--exclude", nargs="+", choices=kinds, default=[], help="copies that are left out")
    add("--prompt", choices=("auto", "leap", "vlabench"), default="auto", help="of VLABench-style samples")
    add("--skip_invalid", action="store_true", help="leave faulty annotations out instead of stopping")
    add("--overwrite", action="store_true", help="replace files of the same name")
    arguments = parser.parse_args()

    from leap.preparation.build.build_dataset import Sources, build
    from leap.preparation.build.dataset_file import BuildSettings
    from leap.provenance import command, git_state

    usual = (workspace.data / "task_info", workspace.love_agibot / "json")
    annotations = arguments.annotations or next((folder for folder in usual if folder.is_dir()), None)
    sources = Sources(
        annotations=annotations,
        images=arguments.images,
        examples=arguments.vlabench,
        evaluation=arguments.evaluation,
        checkout=workspace.vlabench,
        prompt=arguments.prompt,
        skip_invalid=arguments.skip_invalid,
    )
    named = ("seed", "train_samples", "test_samples", "near_bits", "exclude", "overwrite")
    given = {name: getattr(arguments, name) for name in named}
    settings = BuildSettings(arguments.output_dir, (workspace.data, workspace.root), **given)
    build(sources, settings, workspace.cache, {"command": command(), **git_state(REPOSITORY)})


if __name__ == "__main__":
    run(main)
