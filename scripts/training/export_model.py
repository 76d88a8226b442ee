"""Turn a checkpoint into a model folder that loads anywhere: LoRA merged into its base, cast, with a model card.

    python scripts/training/export_model.py --checkpoint output/checkpoint-5000 --output models/leap-5000
    python scripts/training/export_model.py --checkpoint EvanSirius/leap-ckpts:checkpoint-5000 --output models/leap-5000
    python scripts/training/export_model.py --checkpoint output/lora_standard/checkpoint-7000 \\
        --output models/leap-lora --push_to_hub NAME/leap-lora --private

Nothing is uploaded without --push_to_hub. The card has the results of these weights in --results; after an evaluation
the same command renews it, and goes on with an upload that was interrupted.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run


def main() -> None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find, find_model = parser.add_argument, workspace.resolve, workspace.find_model
    add(
        "--checkpoint",
        type=find_model,
        required=True,
        help="a checkpoint's folder, or OWNER/NAME[:SUBFOLDER] on the hub: a whole model or a LoRA adapter",
    )
    add("--output", type=find, required=True, help="the new folder, or this very export's")
    add("--base_model_path", type=find_model, help="the base of an adapter (default: the one that it names)")
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="of the weights")
    add("--results", type=find, default=workspace.eva_results, help="evaluations, for the card")
    add("--license", help="for the card: apache-2.0, say (default: the base's, if its card says it)")
    name, private = ("--push_to_hub", "--hub_model_id"), ("--private", "--hub_private_repo")
    add(*name, metavar="NAME", help="upload it as this repository too, OWNER/NAME")
    add(*private, action="store_true", help="make a new repository a private one")
    arguments = parser.parse_args()

    from leap.errors import LeapError, UsageError
    from leap.models.checkpoints import adapter_base
    from leap.models.export import check_push, export_model, push_model
    from leap.models.fetching import fetch_models
    from leap.models.image_size import recorded_size
    from leap.provenance import git_state

    repository = arguments.push_to_hub
    if arguments.private and not repository:
        raise UsageError("--private goes with --push_to_hub NAME")
    if repository:
        check_push(repository)

    from leap.report.model_card import Export, model_card, serving

    fetch_models(arguments, workspace.root)
    checkpoint = arguments.checkpoint
    given = arguments.base_model_path
    base = adapter_base(checkpoint, workspace.root, given)
    if given and base is None:
        raise UsageError(f"--base_model_path: {checkpoint} is no LoRA adapter")
    export = Export(
        checkpoint=checkpoint,
        base=base,
        name=repository or arguments.output.name,
        output=arguments.output,
        dtype=arguments.dtype,
        images=recorded_size(checkpoint, workspace.root, base) or workspace.image_size,
        root=workspace.root,
        results=arguments.results,
        commit=git_state(workspace.repository)["commit"],
        license=arguments.license,
    )
    export_model(checkpoint, arguments.output, base, arguments.dtype, model_card(export))
    print(f"exported: {arguments.output}")
    if repository:
        print(f"uploaded: {push_model(arguments.output, repository, arguments.private)}")
    print(f"serve:    {serving(export, repository or str(arguments.output))}")
    if base:
        try:
            print(f"unmerged: {serving(export, unmerged=True)}")
        except LeapError as error:  # vLLM does not serve every adapter
            print(f"unmerged: {error}")


if __name__ == "__main__":
    run(main)
