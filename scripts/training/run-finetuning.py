"""Fine-tune Qwen3-VL (or any model of its kind) on LEAP's samples: every weight, some components, or LoRA adapters.

    python scripts/training/run-finetuning.py --dry_run
    python scripts/training/run-finetuning.py --recipe full --learning_rate 1.0e-5 --output_dir output/lower-rate
    python scripts/training/run-finetuning.py --recipe lora-standard
    python scripts/training/run-finetuning.py --recipe full --freeze_vision --output_dir output/frozen
    LEAP_ROOT=demo python scripts/training/run-finetuning.py --recipe demo

The same command continues a run that was killed, or that SIGTERM (Slurm) or Ctrl-C ended with a
checkpoint. On several GPUs: torchrun --standalone --nproc_per_node 4 scripts/training/run-finetuning.py [--fsdp]
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run
from leap.training.overrides import add_recipe_flags, recipe_overrides
from leap.training.places import check_places
from leap.training.recipe import read_recipe


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--recipe", default=WorkspaceConfig.full_recipe_name, help="name in configs/recipes/ or a file")
    parser.add_argument("--dry_run", action="store_true", help="check everything and print the plan, train nothing")
    add_recipe_flags(parser)
    arguments = parser.parse_args()

    workspace = WorkspaceConfig.find()
    recipe = read_recipe(workspace.recipe(arguments.recipe), recipe_overrides(arguments, workspace.root))
    check_places(recipe, workspace.root)

    from leap.evaluation.training_benchmark import benchmark_maker
    from leap.report.loss_plot import LossPlot
    from leap.training.fine_tune import plan_and_train

    places = workspace.root, workspace.cache, workspace.repository, workspace.logs
    benchmark = benchmark_maker(workspace.vlm_evaluation, workspace.vlabench, workspace.max_new_tokens)
    plan_and_train(recipe, *places, [LossPlot()], arguments.dry_run, benchmark)


if __name__ == "__main__":
    run(main)
