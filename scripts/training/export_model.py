"""Turn a checkpoint into a model folder that loads anywhere: LoRA merged into its base, cast, with a model card.

    python scripts/training/export_model.py --checkpoint output/checkpoint-5000 --output models/leap-5000
    python scripts/training/export_model.py --checkpoint output/lora_standard/checkpoint-7000 \\
        --output models/leap-lora --push_to_hub NAME/leap-lora --private

Nothing is uploaded without --push_to_hub.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run


def main() -> None:
    workspace = WorkspaceConfig.find()
    parser, find, find_model = Parser(__doc__), workspace.resolve, workspace.find_model
    parser.add_argument(
        "--checkpoint",
        type=find_model,
        required=True,
        help="a checkpoint's folder, or OWNER/NAME[:SUBFOLDER] on the hub: a whole model or a LoRA adapter",
    )
    parser.add_argument("--output", type=find, required=True, help="the new folder; it must not exist")
    parser.add_argument(
        "--base_model_path", type=find_model, help="the base of an adapter (default: the one that it names)"
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="of the weights"
    )
    parser.add_argument("--push_to_hub", metavar="NAME", help="upload it as this repository too, OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository a private one")
    arguments = parser.parse_args()

    from leap.errors import UsageError
    from leap.models.checkpoints import adapter_base
    from leap.models.export import export_model, push_model
    from leap.models.fetching import fetch_models
    from leap.provenance import git_state

    if arguments.private and not arguments.push_to_hub:
        raise UsageError("--private goes with --push_to_hub NAME")
    fetch_models(arguments, workspace.root)
    checkpoint = arguments.checkpoint
    given = arguments.base_model_path
    base = adapter_base(checkpoint, workspace.root, given)
    if given and base is None:
        raise UsageError(f"--base_model_path: {checkpoint} is no LoRA adapter")
    commit = git_state(workspace.repository)["commit"]
    folder = export_model(checkpoint, arguments.output, base, arguments.dtype, commit)
    print(f"exported: {folder}")
    if arguments.push_to_hub:
        print(f"uploaded: {push_model(folder, arguments.push_to_hub, arguments.private)}")


if __name__ == "__main__":
    run(main)
