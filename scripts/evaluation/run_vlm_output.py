"""Write plans of the baseline and of checkpoints for a blind review.

    python scripts/evaluation/run_vlm_output.py --baseline_model models/Qwen3-VL-2B-Instruct
    python scripts/evaluation/run_vlm_output.py --max_checkpoints 3 --temperature 0
    python scripts/evaluation/run_vlm_output.py --data_file data/test_16812.jsonl --max_samples 100
    python scripts/evaluation/run_vlm_output.py --engine openai --base_url http://localhost:8000/v1 --model qwen3-vl

Writes <save_dir>/blind10_outputs_<time>.csv and its manifest. Answers are kept as they come: the same command goes on
where it was interrupted, and asks again what failed.
"""

import argparse
from contextlib import closing
from pathlib import Path

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FAILED, Parser, count, count_or_all, refuse_reversed, run, seed, share, temperature
from leap.errors import LeapError, UsageError
from leap.inference.engines import EngineOfSweep, EngineOptions, add_engine_arguments
from leap.models.image_size import ChosenSize, add_size_arguments, choose_size


def parse_arguments(workspace: WorkspaceConfig) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add(
        "--data_file",
        type=workspace.find_data,
        default=workspace.data / "blind_10.jsonl",
        help="training samples: image, question, reference",
    )
    add("--max_samples", type=count_or_all, help="only the first N samples")
    add(
        "--image_root",
        type=workspace.find_data,
        help="where relative images start (default: the workspace root, data/, the data file's folder)",
    )
    add(
        "--baseline_model", type=workspace.find_model, default=workspace.base_model, help="its plans are named Baseline"
    )
    add("--checkpoints_dir", type=find, default=workspace.output, help="a run's folder; its checkpoints are asked too")
    add("--max_checkpoints", type=count_or_all, help="only the newest N of them, or None")
    add("--max_models", type=count_or_all, help="only the first N models, the baseline included")
    add("--save_dir", type=find, default=workspace.blind_10, help="where the table goes")
    add("--max_new_tokens", type=count, default=256, help="longer plans are cut and marked")
    add("--temperature", type=temperature, default=0.7, help="0 is greedy")
    add("--top_p", type=share, default=0.9, help="of sampling: the likeliest tokens with so much probability")
    add("--seed", type=seed, default=42, help="of the sampling")
    add_size_arguments(parser, workspace.image_size)
    add("--no_resume", action="store_true", help="ask everything anew")
    add_engine_arguments(parser, workspace.find_model)
    return parser.parse_args()


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    arguments = parse_arguments(workspace)
    refuse_reversed(arguments, "image_tokens_min", "image_tokens_max")
    if arguments.engine == "openai" and (arguments.max_checkpoints or arguments.max_models):
        raise UsageError("--max_checkpoints and --max_models do nothing with --engine openai: it asks one model")
    options = EngineOptions.of(arguments)

    from leap.records.files import check_folder
    from leap.records.remote import fetch_data

    check_folder(arguments.save_dir)
    fetch_data(arguments.data_file)
    if not arguments.data_file.is_file():
        raise LeapError(
            f"{arguments.data_file}: there is no such file of samples; download LEAP's (python "
            "scripts/download/download_leap_data.py), or name yours with --data_file"
        )

    folder = arguments.save_dir
    with EngineOfSweep(options) as engine:
        given = workspace, arguments, options
        models, settings, load = _served(*given) if options.served else _local(*given, engine)
        from leap.judge.outputs import write_outputs  # which loads pandas: what is typed wrong is said before

        found = write_outputs(models, settings, load, folder, workspace.repository, not arguments.no_resume)
    print(f"{found.path}: {found.answered} plans, {found.failed} failures, {found.truncated} cut at the limit")
    return FAILED if found.failed else None


def _settings(
    workspace: WorkspaceConfig,
    arguments: argparse.Namespace,
    options: EngineOptions,
    dtype: str | None,
    size: ChosenSize,
):
    from leap.inference.protocol import Decoding
    from leap.judge.outputs import OutputSettings
    from leap.records.paths import roots_beside

    print(size)
    roots = roots_beside(arguments.data_file, (workspace.root, workspace.data))
    return OutputSettings(
        data=arguments.data_file,
        root=workspace.root,
        image_roots=(arguments.image_root,) if arguments.image_root else roots,
        images=size.tokens,
        image_size_source=size.source,
        decoding=Decoding(
            arguments.max_new_tokens, temperature=arguments.temperature, top_p=arguments.top_p, seed=arguments.seed
        ),
        engine=options.engine,
        dtype=dtype,
        quantization=arguments.quantization,
        max_samples=arguments.max_samples,
        engine_arguments=options.arguments,
    )


def _served(workspace: WorkspaceConfig, arguments: argparse.Namespace, options: EngineOptions):
    """The one model that a server has, or that --model names."""
    from leap.evaluation.model_names import served_name
    from leap.evaluation.settings import EvaluatedModel
    from leap.inference.openai import OpenAiEngine

    size, endpoint = choose_size(arguments, workspace.image_size), options.endpoint()
    settings = _settings(workspace, arguments, options, None, size)
    model = EvaluatedModel(served_name(endpoint.shown_model), endpoint=f"{endpoint.shown_url} {endpoint.shown_model}")
    return [model], settings, lambda _: closing(OpenAiEngine(endpoint, settings.images))


def _local(workspace: WorkspaceConfig, arguments: argparse.Namespace, options: EngineOptions, engine: EngineOfSweep):
    """The baseline and the checkpoints, loaded one after the other."""
    from leap.evaluation.model_names import chosen_models, plain_model
    from leap.inference.engines import ModelToOpen
    from leap.models.checkpoints import weight_files
    from leap.models.fetching import fetch_models
    from leap.models.loading import pick_device, pick_dtype

    fetch_models(arguments, workspace.root)
    baseline, base = arguments.baseline_model, arguments.base_model_path
    folders = chosen_models(baseline, arguments.checkpoints_dir, arguments.max_checkpoints)
    folders += [arguments.lora_adapter_path] if arguments.lora_adapter_path else []
    folders = folders[: arguments.max_models]
    for folder in folders:
        weight_files(folder)
    size = choose_size(arguments, workspace.image_size, folders, baseline, workspace.root, base)
    device = pick_device(arguments.device)
    dtype = pick_dtype(arguments.dtype, device)
    settings = _settings(workspace, arguments, options, dtype, size)

    def identified(folder: Path):
        return plain_model(folder, baseline, workspace.output, workspace.root, base=base)

    def load(model):
        log, images, data = workspace.logs / f"vllm-{model.name}.log", settings.images, settings.image_roots[0]
        others = tuple(folder for folder in folders if folder != model.folder)
        return engine.holding(ModelToOpen(model.folder, model.base, images, device, dtype, data, log, others=others))

    return [identified(folder) for folder in folders], settings, load


if __name__ == "__main__":
    run(main)
