"""Fine-tune LoRA adapters with a preset: light, standard, full or aggressive; every value can be overridden.

    python scripts/ablation/run-lora-finetuning.py --dry_run
    python scripts/ablation/run-lora-finetuning.py --lora_preset aggressive
    python scripts/ablation/run-lora-finetuning.py --lora_preset light --lora_r 4 --lora_target_modules q_proj,v_proj
    python scripts/ablation/run-lora-finetuning.py --lora_preset standard --resume_from_lora \\
        output/lora_standard/checkpoint-7000 --output_dir output/lora_more --max_steps 1000

A preset is the recipe configs/recipes/lora-<preset>.yaml; --recipe takes all but its adapters from another one. The run
lies in output/lora_<preset>, and the same command continues it. --resume_from_lora starts a new run from an adapter's
weights, which go on learning; with the newest checkpoint of the run's own folder it continues that run.
"""

import argparse
import os

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run
from leap.training.overrides import add_recipe_flags, recipe_overrides
from leap.training.places import check_places
from leap.training.presets import read_preset


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    preset = os.environ.get("LORA_PRESET") or "standard"
    add("--lora_preset", "--preset", default=preset, help="default: LORA_PRESET, else standard (here: %(default)s)")
    add("--recipe", help="name in configs/recipes/ or a file: its training with the preset's adapters")
    add("--dry_run", action="store_true", help="check everything and print the plan, train nothing")
    short = {"--lr": "learning_rate", "--epochs": "num_train_epochs", "--batch_size": "per_device_train_batch_size"}
    add_recipe_flags(parser, short)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()

    workspace = WorkspaceConfig.find()
    shared = workspace.recipe(arguments.recipe) if arguments.recipe else None
    overrides = recipe_overrides(arguments, workspace.root)
    recipe = read_preset(workspace.recipes, arguments.lora_preset, overrides, shared)
    check_places(recipe, workspace.root)

    from leap.evaluation.training_benchmark import benchmark_maker
    from leap.progress import is_main_process
    from leap.report.loss_plot import LossPlot
    from leap.training.fine_tune import plan_and_train

    if is_main_process():
        print(f"preset      {arguments.lora_preset}")
    places = workspace.root, workspace.cache, workspace.repository, workspace.logs
    benchmark = benchmark_maker(workspace.vlm_evaluation, workspace.vlabench, workspace.max_new_tokens)
    plan_and_train(recipe, *places, [LossPlot()], arguments.dry_run, benchmark)


if __name__ == "__main__":
    run(main)
