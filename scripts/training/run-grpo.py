"""Learn from a reward that can be checked: GRPO from any checkpoint, or rejection sampling (--method rft).

    python scripts/training/run-grpo.py --dry_run --model_name_or_path output/checkpoint-5000
    python scripts/training/run-grpo.py --model_name_or_path output/checkpoint-5000 --train_file data/my_plans.jsonl
    LEAP_ROOT=demo python scripts/training/run-grpo.py --recipe demo-grpo
    LEAP_ROOT=demo python scripts/training/run-grpo.py --recipe demo-grpo --train_file tabletop --seed 1
    LEAP_ROOT=demo python scripts/training/run-grpo.py --recipe demo-rft

Prompts are samples whose answer is a plan, examples in the benchmark's format, or fresh scenes of the demo. The same
command continues a run that was killed or stopped. GRPO needs TRL: pip install -c constraints.txt -e ".[rl]"
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run
from leap.reinforcement.policy_recipe import PolicyRecipe
from leap.training.overrides import add_recipe_flags, recipe_overrides
from leap.training.recipe import read_recipe


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--recipe", default="grpo", help="name in configs/recipes/ or a file")
    parser.add_argument("--dry_run", action="store_true", help="check everything and print the plan, train nothing")
    add_recipe_flags(parser, kind=PolicyRecipe)
    arguments = parser.parse_args()

    workspace = WorkspaceConfig.find()
    given = recipe_overrides(arguments, workspace.root, PolicyRecipe)
    recipe = read_recipe(workspace.recipe(arguments.recipe), given, PolicyRecipe)

    from leap.evaluation.training_benchmark import benchmark_maker
    from leap.reinforcement.learn import learn
    from leap.reinforcement.policy_prompts import Places
    from leap.report.loss_plot import LossPlot, RewardPlot

    found = workspace.vlm_evaluation, workspace.vlabench
    places = Places(workspace.root, workspace.cache, workspace.repository, workspace.logs, *found)
    plot = RewardPlot() if recipe.method == "grpo" else LossPlot()
    learn(recipe, places, arguments.dry_run, [plot], benchmark_maker(*found, recipe.max_completion_length))


if __name__ == "__main__":
    run(main)
