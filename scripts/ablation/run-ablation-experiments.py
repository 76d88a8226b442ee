"""Which LoRA is enough? Train presets (and full fine-tuning) alike, evaluate them alike, and report with one figure.

    bash scripts/ablation/run-ablation-experiments.sh --dry_run
    bash scripts/ablation/run-ablation-experiments.sh batch --include_full_finetuning --seeds 3
    bash scripts/ablation/run-ablation-experiments.sh --presets light,standard --max_steps 1000 --name short
    bash scripts/ablation/run-ablation-experiments.sh --gpus 0,1,2,3 -- --engine vllm
    bash scripts/ablation/run-ablation-experiments.sh --ray_address auto
    bash scripts/ablation/run-ablation-experiments.sh --demo         small, in demo/, without a GPU

`batch` and no word mean the same: all presets. Recipe values given here hold for every run; what stands behind -- goes
to every evaluation. The same command continues what was stopped or failed and repeats nothing that is done. The report
lies in eva_results/ablation/. Exit code 1 if anything is missing in the end.
"""

import argparse
import os
import sys

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import REPOSITORY, WorkspaceConfig
from leap.ablation.runs import OWN
from leap.cli import FAILED, Parser, count, counts, run, words
from leap.errors import UsageError
from leap.training.overrides import add_recipe_flags, recipe_overrides

_DEMO_EVALUATION = "--scorer leap --prompt leap --max_new_tokens 256 --batch_size"
_DEMO_CORES = 3  # of each run, where several share a GPU


def parse_arguments(line: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, environment = parser.add_argument, os.environ
    presets, steps = environment.get("LORA_PRESETS") or None, environment.get("LORA_STEPS") or []
    add("batch", nargs="?", choices=("batch",), help="may be left out")
    add("--presets", type=words, default=presets, help="a,b (default: LORA_PRESETS or all)")
    add("--include_full_finetuning", action="store_true", help="train every weight too, for as many steps")
    add("--seeds", type=count, default=1, help="runs of each method, from the recipe's seed on (default 1)")
    add("--steps", type=counts, default=steps, help="a,b: checkpoints to evaluate (default: LORA_STEPS or the last)")
    add("--name", help="of the experiment: its runs lie in output/NAME_..., its report in ablation_NAME")
    add("--demo", action="store_true", help="all presets and full fine-tuning in the demo workspace, made if missing")
    add("--gpus", help="names as in CUDA_VISIBLE_DEVICES: 0,1 (default: all visible); none for the CPU")
    add("--jobs", type=count, help="runs at once (default: one a GPU, one without a GPU; --demo: several share a GPU)")
    add("--ray_address", help="a Ray cluster for runs and evaluations: auto or HOST:PORT (default: this machine alone)")
    add("--dry_run", action="store_true", help="check everything and print the plan, train nothing")
    add("--report_only", action="store_true", help="write the report of what is there, train and evaluate nothing")
    add_recipe_flags(parser, refused=(*OWN, "early_stopping_patience"))
    if environment.get("MAX_STEPS"):
        parser.set_defaults(max_steps=environment["MAX_STEPS"])
    return parser.parse_args(line)


def _workspace(demo: bool) -> WorkspaceConfig:
    """The workspace, which for the demo is LEAP_ROOT, or else demo/."""
    return WorkspaceConfig(REPOSITORY / "demo") if demo and not os.environ.get("LEAP_ROOT") else WorkspaceConfig.find()


def main() -> int | None:
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = parse_arguments(sys.argv[1:end]), sys.argv[end + 1 :]
    if arguments.gpus and arguments.ray_address:
        raise UsageError("--gpus names those of this machine; --ray_address shares out all of a cluster")
    if arguments.dry_run and arguments.report_only:
        raise UsageError("--dry_run writes nothing, --report_only writes the report: give one of them")

    from leap.ablation.runs import Scripts, make_runs, refuse_options
    from leap.data.image import ImageSize
    from leap.evaluation.model_names import check_name
    from leap.hardware import chosen_gpus, usable_cores
    from leap.models.image_size import choose_size, read_size_flags
    from leap.training.presets import known_presets

    demo, name, workspace = arguments.demo, arguments.name, _workspace(arguments.demo)
    check_name(name, "--name")
    refuse_options(options)
    gpus = None if arguments.ray_address else chosen_gpus(arguments.gpus)
    if demo and gpus and not arguments.jobs:  # runs of a model that small wait for a core, not for their GPU
        arguments.jobs = max(len(gpus), usable_cores() // _DEMO_CORES)
    values = recipe_overrides(arguments, workspace.root)
    scripts = Scripts(
        workspace.repository / "scripts",
        workspace.recipes,
        full_recipe=workspace.recipe("demo-full" if demo else workspace.full_recipe_name),
        lora_recipe=workspace.recipe("demo-lora") if demo else None,
    )
    presets = arguments.presets or known_presets(workspace.recipes)
    runs = make_runs(scripts, presets, demo or arguments.include_full_finetuning, arguments.seeds, values, name)
    trained = ImageSize(runs[0].recipe.image_tokens_min, runs[0].recipe.image_tokens_max)
    size = choose_size(read_size_flags(options), trained, otherwise="as all runs are trained")

    from leap.ablation.ablation_plan import plan_runs
    from leap.ablation.experiment import Experiment, prepare_demo
    from leap.ablation.stages import Machine, Places

    if demo and not prepare_demo(workspace, arguments.dry_run):
        print(f"runs        {', '.join(one.name for one in runs)}, each {runs[0].recipe.max_steps} steps")
        return None
    experiment = Experiment(
        planned=plan_runs(runs, workspace.root, workspace.cache, arguments.steps, keep=not arguments.dry_run),
        scripts=scripts,
        data=workspace.vlm_evaluation,
        places=Places(workspace.output, workspace.eva_results, workspace.base_model, size.tokens),
        folder=workspace.eva_results / ("ablation" if name is None else f"ablation_{name}"),
        options=[*([*_DEMO_EVALUATION.split(), "108" if gpus else "36"] if demo else ()), *options],
        machine=Machine(
            workspace.logs, gpus, arguments.jobs, {"LEAP_ROOT": str(workspace.root)}, arguments.ray_address
        ),
    )
    print(experiment.describe(), f"\n{size}", flush=True)
    if arguments.dry_run:
        return None
    return None if (experiment.report() if arguments.report_only else experiment.run()) else FAILED


if __name__ == "__main__":
    run(main)
