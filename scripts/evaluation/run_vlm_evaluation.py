"""Evaluate a model on VLABench's six VLM dimensions.

    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/checkpoint-200 --dimension all
    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/checkpoint-200 --dimension "M&T"
    python scripts/evaluation/run_vlm_evaluation.py --dimension baseline
    python scripts/evaluation/run_vlm_evaluation.py --batch_mode --max_checkpoints 5
    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/checkpoint-200 --picture-control blank

Answers are kept as they come: the same command continues an interrupted evaluation and repeats failed examples.
"""

import argparse
from pathlib import Path

from configs.config import WorkspaceConfig
from leap.cli import FAILED, run
from leap.errors import UsageError
from leap.vlabench.sources import SOURCES


def parse_arguments(workspace: WorkspaceConfig) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", "--model_path", dest="model", help="model folder (default: the baseline)")
    add("--dimension", nargs="+", default=["all"], help="one or several in any spelling, all, or baseline")
    add("--data_path", default=workspace.vlm_evaluation, help="the benchmark's folder")
    add("--num_episodes", type=_count_or_all, help="only the first N examples of each task")
    add("--max_tasks", type=_count_or_all, help="only the first N tasks of each dimension")
    add("--batch_mode", action="store_true", help="the baseline and every checkpoint of --checkpoints_dir")
    add("--baseline_model", default=workspace.base_model, help="its results are named Baseline")
    add("--checkpoints_dir", default=workspace.output, help="for --batch_mode")
    add("--max_checkpoints", type=_count_or_all, help="only the newest N checkpoints, or None")
    add("--skip-baseline", action="store_true", help="for --batch_mode")
    add("--model_name", help="the name of the results (default: from the folder)")
    add("--output_dir", default=workspace.eva_results, help="where results go")
    add(
        "--picture-control", choices=("none", "swapped", "blank"), default="none", help="other scenes' or grey pictures"
    )
    add("--few-shot-num", type=_number, default=0, help="solved examples of the same dimension in each request")
    add("--few-shot-format", choices=("fenced", "upstream"), default="fenced", help="how their answers are written")
    add("--few-shot-seed", type=int, default=0, help="draws them")
    add("--with-cot", action="store_true", help="ask for step-by-step reasoning before the plan")
    add("--language", choices=("en", "zh"), default="en", help="of the prompt")
    add("--scorer", choices=SOURCES, default="auto", help="auto: the VLABench submodule's if checked out, else LEAP's")
    add("--prompt", choices=SOURCES, default="auto", help="the same for the instructions that open every request")
    add("--device", help="cuda, cuda:1, cpu (default: the first GPU, or else the CPU)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on a GPU, float32 on a CPU")
    add("--batch_size", type=_count, default=16, help="a cap; batches that do not fit in memory are split")
    add("--max_new_tokens", type=_count, default=workspace.max_new_tokens, help="longer answers are cut and counted")
    add("--image_tokens_min", type=_count, default=workspace.image_tokens_min, help="picture size, in 32x32 pixels")
    add("--image_tokens_max", type=_count, default=workspace.image_tokens_max, help="picture size, in 32x32 pixels")
    return parser.parse_args()


def _number(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _count(text: str) -> int:
    if not _number(text):
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return int(text)


def _count_or_all(text: str) -> int | None:
    return None if text in ("None", "all") else _count(text)


def _refuse_what_would_be_ignored(arguments: argparse.Namespace) -> None:
    """Flags that contradict each other are wrong usage, not silence."""
    baseline = "baseline" in arguments.dimension
    if baseline and (arguments.dimension != ["baseline"] or arguments.model or arguments.batch_mode):
        raise UsageError("--dimension baseline evaluates the baseline on all dimensions; give it no model and no other")
    if arguments.batch_mode and (arguments.model or arguments.model_name):
        raise UsageError("--batch_mode takes the baseline and all checkpoints; give it no --checkpoint or --model_name")
    if not arguments.batch_mode and (arguments.skip_baseline or arguments.max_checkpoints):
        raise UsageError("--skip-baseline and --max_checkpoints go with --batch_mode")


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    arguments = parse_arguments(workspace)
    _refuse_what_would_be_ignored(arguments)

    from leap.data.pictures import PictureSize
    from leap.evaluation.models import chosen_models, identify
    from leap.evaluation.run import evaluate_models
    from leap.evaluation.settings import EvaluatedModel, EvaluationSettings, FewShot
    from leap.inference.protocol import Decoding, Engine
    from leap.models.loading import default_dtype, pick_device
    from leap.report.live import print_results
    from leap.vlabench.dimensions import find_dimensions
    from leap.vlabench.sources import choose_instructions, choose_scorer

    baseline_only = arguments.dimension == ["baseline"]
    dimensions = find_dimensions(["all"] if baseline_only else arguments.dimension)
    device, results = pick_device(arguments.device), workspace.resolve(arguments.output_dir)
    settings = EvaluationSettings(
        data=workspace.resolve(arguments.data_path),
        instructions=choose_instructions(arguments.prompt, workspace.vlabench, arguments.language),
        pictures=PictureSize(arguments.image_tokens_min, arguments.image_tokens_max),
        decoding=Decoding(arguments.max_new_tokens),
        max_tasks=arguments.max_tasks,
        num_episodes=arguments.num_episodes,
        dtype=arguments.dtype or default_dtype(device),
        picture_control=arguments.picture_control,
        few_shot=FewShot(arguments.few_shot_num, arguments.few_shot_format, arguments.few_shot_seed),
        with_cot=arguments.with_cot,
        scorer=choose_scorer(arguments.scorer, workspace.vlabench),
    )
    baseline = workspace.resolve(arguments.baseline_model)
    if arguments.batch_mode and not baseline_only:
        folders = chosen_models(
            None if arguments.skip_baseline else baseline,
            workspace.resolve(arguments.checkpoints_dir),
            arguments.max_checkpoints,
        )
    else:
        folders = [baseline if baseline_only or not arguments.model else workspace.resolve(arguments.model)]

    def identified(folder: Path) -> EvaluatedModel:
        return identify(folder, baseline, workspace.output, settings, arguments.model_name)

    def load(folder: Path) -> Engine:
        from leap.inference.hf import HfEngine

        return HfEngine(folder, settings.pictures, device, settings.dtype, arguments.batch_size)

    models = map(identified, folders)
    finished = evaluate_models(models, dimensions, settings, load, results, workspace.repository)
    return None if print_results(finished, results) else FAILED


if __name__ == "__main__":
    run(main)
