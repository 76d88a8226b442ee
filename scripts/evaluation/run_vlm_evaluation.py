"""Evaluate a model on VLABench's six VLM dimensions.

    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/checkpoint-200 --dimension all
    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/checkpoint-200 --dimension "M&T"
    python scripts/evaluation/run_vlm_evaluation.py --checkpoint EvanSirius/leap-ckpts:checkpoint-5000
    python scripts/evaluation/run_vlm_evaluation.py --dimension baseline
    python scripts/evaluation/run_vlm_evaluation.py --batch_mode --max_checkpoints 5
    python scripts/evaluation/run_vlm_evaluation.py --batch_mode --ray_address auto
    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/lora_standard/checkpoint-200
    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/checkpoint-200 --image_control blank
    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/checkpoint-200 --engine vllm
    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/checkpoint-200 --repeats 8 --temperature 0.7
    python scripts/evaluation/run_vlm_evaluation.py --engine openai --base_url http://localhost:8000/v1

Answers are kept as they come: the same command continues an interrupted evaluation and repeats failed examples.
"""

import argparse
import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import (
    FAILED,
    Parser,
    count,
    count_or_all,
    refuse_reversed,
    repeats,
    run,
    seed,
    some_seconds,
    temperature,
    whole,
)
from leap.errors import UsageError
from leap.inference.engines import EngineOptions, add_engine_arguments
from leap.models.image_size import ChosenSize, add_size_arguments, choose_size
from leap.vlabench.sources import SOURCES


def parse_arguments(workspace: WorkspaceConfig) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, find, model = parser.add_argument, workspace.resolve, workspace.find_model
    where = "model folders, or OWNER/NAME[@REVISION][:SUBFOLDER] on the hub (default: the baseline)"
    add("--checkpoint", "--model_path", dest="checkpoint", type=model, nargs="+", help=where)
    add("--dimension", nargs="+", default=["all"], help="one or several in any spelling, all, or baseline")
    add("--data_path", type=workspace.find_data, default=workspace.vlm_evaluation, help="the benchmark's folder")
    add("--num_episodes", type=count_or_all, help="only the first N examples of each task")
    add("--max_tasks", type=count_or_all, help="only the first N tasks of each dimension")
    add("--batch_mode", action="store_true", help="the baseline and every checkpoint of --checkpoints_dir")
    add("--baseline_model", type=model, default=workspace.base_model, help="its results are named Baseline")
    add("--checkpoints_dir", type=find, default=workspace.output, help="for --batch_mode")
    add("--max_checkpoints", type=count_or_all, help="only the newest N checkpoints, or None")
    add("--skip_baseline", action="store_true", help="for --batch_mode")
    add("--model_name", help="the name of the results (default: from the folder)")
    add("--output_dir", type=find, default=workspace.eva_results, help="where results go")
    add("--upload", type=workspace.find_data, help="send complete results to s3://, gs://, hf:// or a folder, too")
    add("--fresh", action="store_true", help="start anew; old results go to backup_eva_results/")
    controls = ("none", "swapped", "blank", "absent")
    add("--image_control", choices=controls, default="none", help="other scenes' images, grey ones, or none at all")
    add("--few_shot_num", type=whole, default=0, help="solved examples of the same dimension in each request")
    add("--few_shot_format", choices=("fenced", "upstream"), default="fenced", help="how their answers are written")
    add("--few_shot_seed", type=seed, default=0, help="draws them")
    add("--with_cot", action="store_true", help="ask for step-by-step reasoning before the plan")
    add("--language", choices=("en", "zh"), default="en", help="of the prompt")
    add("--scorer", choices=SOURCES, default="auto", help="auto: the VLABench submodule's if checked out, else LEAP's")
    add("--prompt", choices=SOURCES, default="auto", help="the same for the instructions that open every request")
    add("--temperature", type=temperature, default=0.0, help="0 is greedy; results of others are named NAME_T0.7, say")
    add("--repeats", type=repeats, default=1, help="sampled responses to each example: mean, spread and pass@k")
    add("--max_new_tokens", type=count, default=workspace.max_new_tokens, help="longer answers are cut and counted")
    add_size_arguments(parser, workspace.image_size)
    add_engine_arguments(parser, model)
    add = parser.add_argument_group("several GPUs, or nodes").add_argument
    add("--ray_address", help="a Ray cluster: auto (this node's), HOST:PORT, or local (Ray on this machine alone)")
    add("--jobs", type=count, help="ray: models at once (default: as many as there is room for)")
    add("--gpus_per_model", type=count, help="ray: GPUs of each vLLM server, tensor parallel (default: 1)")
    add("--wait", type=some_seconds, help="ray: seconds until a worker must have found room (default: 600)")
    return parser.parse_args()


def _refuse_what_would_be_ignored(arguments: argparse.Namespace) -> None:
    """Flags that contradict each other are wrong usage, not silence."""
    refuse_reversed(arguments, "image_tokens_min", "image_tokens_max")
    baseline = "baseline" in arguments.dimension
    one = arguments.checkpoint or arguments.lora_adapter_path or arguments.engine == "openai"
    if baseline and (arguments.dimension != ["baseline"] or one or arguments.batch_mode):
        raise UsageError("--dimension baseline evaluates the baseline on all dimensions; give it no model and no other")
    several = len(arguments.checkpoint or ()) > 1
    if several and arguments.model_name:
        raise UsageError(f"--model_name: {len(arguments.checkpoint)} models cannot share one name")
    if (arguments.jobs or arguments.gpus_per_model or arguments.wait) and not arguments.ray_address:
        raise UsageError("--jobs, --gpus_per_model and --wait go with --ray_address")
    if arguments.ray_address and arguments.engine == "openai":
        raise UsageError("--ray_address does nothing with --engine openai: a server is asked from one process")
    if (arguments.gpus_per_model or 1) > 1 and arguments.engine != "vllm":
        raise UsageError(
            f"--gpus_per_model {arguments.gpus_per_model}: only --engine vllm shares a model out over GPUs"
        )
    if arguments.batch_mode and (one or arguments.model_name):
        raise UsageError("--batch_mode takes the baseline and all checkpoints; give it no --checkpoint or --model_name")
    if not arguments.batch_mode and (arguments.skip_baseline or arguments.max_checkpoints):
        raise UsageError("--skip_baseline and --max_checkpoints go with --batch_mode")
    if not arguments.few_shot_num and (arguments.few_shot_seed or arguments.few_shot_format != "fenced"):
        raise UsageError("--few_shot_seed and --few_shot_format do nothing without --few_shot_num")
    if arguments.repeats > 1 and not arguments.temperature:
        raise UsageError(f"--repeats {arguments.repeats}: greedy responses are all alike; give a --temperature too")
    if arguments.checkpoint and (arguments.lora_adapter_path or arguments.engine == "openai"):
        raise UsageError(
            "--checkpoint is a model of its own: give no --lora_adapter_path and no --engine openai with it"
        )


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    arguments = parse_arguments(workspace)
    _refuse_what_would_be_ignored(arguments)
    options = EngineOptions.of(arguments)

    from leap.evaluation.model_names import check_name
    from leap.records.files import check_folder
    from leap.vlabench.dimensions import find_dimensions

    check_name(arguments.model_name)
    check_folder(arguments.output_dir)
    dimensions = find_dimensions([] if arguments.dimension == ["baseline"] else arguments.dimension)
    with ExitStack() as held:
        models, settings, answered = (
            _served(workspace, arguments, options) if options.served else _local(workspace, arguments, options, held)
        )

        from leap.evaluation.evaluate import evaluate_models
        from leap.evaluation.manifest import MANIFEST
        from leap.records.upload import Upload

        results = arguments.output_dir
        upload = Upload(arguments.upload, results, MANIFEST) if arguments.upload else None
        archive = workspace.backup_eva_results if arguments.fresh else None
        finished, failed = evaluate_models(
            models, dimensions, settings, answered, results, workspace.repository, archive, upload
        )

    from leap.report.live import print_results

    complete = print_results(finished, results)
    for error in failed:
        print(f"NOT EVALUATED {error}", file=sys.stderr)
    if upload:
        upload.refuse_failed()
    return None if complete and not failed else FAILED


def _settings(
    workspace: WorkspaceConfig,
    arguments: argparse.Namespace,
    options: EngineOptions,
    dtype: str | None,
    size: ChosenSize,
):
    from leap.evaluation.settings import EvaluationSettings, FewShot
    from leap.inference.protocol import Decoding
    from leap.vlabench.sources import choose_instructions, choose_scorer, chosen_sources

    instructions = choose_instructions(arguments.prompt, workspace.vlabench, arguments.language)
    scorer = choose_scorer(arguments.scorer, workspace.vlabench)
    print(f"{size}\n{chosen_sources(instructions, scorer)}")
    return EvaluationSettings(
        data=arguments.data_path,
        instructions=instructions,
        images=size.tokens,
        image_size_source=size.source,
        decoding=Decoding(arguments.max_new_tokens, temperature=arguments.temperature),
        repeats=arguments.repeats,
        max_tasks=arguments.max_tasks,
        num_episodes=arguments.num_episodes,
        engine=options.engine,
        dtype=dtype,
        quantization=arguments.quantization,
        engine_arguments=options.arguments,
        image_control=arguments.image_control,
        few_shot=FewShot(arguments.few_shot_num, arguments.few_shot_format, arguments.few_shot_seed),
        with_cot=arguments.with_cot,
        scorer=scorer,
        prices=options.prices,
    )


def _served(workspace: WorkspaceConfig, arguments: argparse.Namespace, options: EngineOptions):
    """The one model that a server has, or that --model names."""
    from leap.evaluation.evaluate import in_this_process
    from leap.evaluation.model_names import served_model
    from leap.inference.openai import OpenAiEngine

    settings = _settings(workspace, arguments, options, None, choose_size(arguments, workspace.image_size))
    endpoint, results = options.endpoint(), arguments.output_dir
    model = served_model(endpoint.shown_url, endpoint.shown_model, settings, results, arguments.model_name)
    return (
        [lambda: model],
        settings,
        in_this_process(lambda _: closing(OpenAiEngine(endpoint, settings.images)), settings),
    )


def _local(workspace: WorkspaceConfig, arguments: argparse.Namespace, options: EngineOptions, held: ExitStack):
    """Models in folders: in this process one after the other, or over a Ray cluster, until `held` is left."""
    from leap.evaluation.evaluate import in_this_process
    from leap.evaluation.model_names import chosen_models, identify, named_models, refuse_no_adapter
    from leap.evaluation.settings import EvaluatedModel
    from leap.inference.engines import EngineOfSweep, ModelToOpen
    from leap.models.checkpoints import weight_files
    from leap.models.fetching import fetch_models
    from leap.models.loading import pick_device, pick_dtype

    fetch_models(arguments, workspace.root)
    baseline, base = arguments.baseline_model, arguments.base_model_path
    if arguments.batch_mode:
        skipped = None if arguments.skip_baseline else baseline
        folders = chosen_models(skipped, arguments.checkpoints_dir, arguments.max_checkpoints)
    else:
        folders = arguments.checkpoint or [arguments.lora_adapter_path or baseline]
        if arguments.base_model_path or arguments.lora_adapter_path:
            refuse_no_adapter(folders[0])
    named_models(folders, baseline, workspace.output)
    if len(folders) == 1:  # one of several that has none stops no other
        weight_files(folders[0])
    size = choose_size(arguments, workspace.image_size, folders, baseline, workspace.root, base)
    if arguments.ray_address:
        from leap.jobs.ray_cluster import WAIT, connected, pick_cluster_device
        from leap.jobs.ray_pool import RayPool

        held.enter_context(connected(arguments.ray_address, arguments.jobs))
        gpus, wait = arguments.gpus_per_model or 1, arguments.wait or WAIT
        device, dtype = pick_cluster_device(arguments.device, arguments.dtype, gpus, arguments.jobs, wait)
    else:
        device = pick_device(arguments.device)
        dtype = pick_dtype(arguments.dtype, device)
    settings, results = _settings(workspace, arguments, options, dtype, size), arguments.output_dir

    def identified(folder: Path) -> EvaluatedModel:
        places = baseline, workspace.output, workspace.root
        return identify(folder, *places, settings, results, arguments.model_name, base)

    def to_open(model: EvaluatedModel):
        log, images = workspace.logs / f"vllm-{model.name}.log", settings.images
        others = tuple(folder for folder in folders if folder != model.folder)
        return ModelToOpen(model.folder, model.base, images, device, dtype, settings.data, log, others=others)

    models = [partial(identified, folder) for folder in folders]
    if not arguments.ray_address:
        engine = held.enter_context(EngineOfSweep(options))
        return models, settings, in_this_process(lambda model: engine.holding(to_open(model)), settings)
    pool = RayPool(options, gpus * (device != "cpu"), arguments.jobs, wait)
    return models, settings, partial(pool.answer, decoding=settings.decoding, model_to_open=to_open)


if __name__ == "__main__":
    run(main)
