"""Judge the plans of a blind review: language models at any OpenAI-compatible server, or the deterministic rubric.

    python scripts/evaluation/analyze_output_results.py --judge rubric
    python scripts/evaluation/analyze_output_results.py --api_base http://localhost:8000/v1 --model qwen3-vl
    python scripts/evaluation/analyze_output_results.py --judge gpt-4o,input=2.5,output=10 rubric --max_cost 1
    python scripts/evaluation/analyze_output_results.py --judge judge-a judge-b@http://localhost:8001/v1 --pairwise

Takes the newest blind10_outputs_<time>.csv; writes blind10_score_<time>.csv, a summary and a manifest beside it. The
judge never learns whose plan it sees. Address, key and model come from the flags, or from JENIYA_API_BASE,
JENIYA_API_KEY and JENIYA_MODEL, or else OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL. Verdicts are kept as they
come: the same command goes on where it was interrupted and pays for nothing twice.
"""

import argparse

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import (
    FAILED,
    Parser,
    count,
    count_or_all,
    image_tokens,
    names,
    refuse_reversed,
    run,
    seconds,
    seed,
    some_seconds,
    some_workers,
    temperature,
    usd,
    whole,
)


def parse_arguments(workspace: WorkspaceConfig) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--input_csv", type=find, help="a table of outputs (default: the newest in --save_dir)")
    add("--save_dir", type=find, default=workspace.blind_10, help="where tables lie and go")
    add("--judge", nargs="+", default=[], help="rubric, MODEL or MODEL@URL[,key=VARIABLE][,input=USD,output=USD]")
    add("--api_base", help="the server's address, up to /v1")
    add("--model", help="the same as --judge MODEL (default without any: the server's only one)")
    add("--baseline", help="the model that the others are compared with (default: Baseline)")
    add(
        "--repeats",
        type=count,
        help="verdicts of a judge on each plan (default: one for each criterion, in turned order)",
    )
    add("--pairwise", action="store_true", help="compare each two plans for a sample as well, in both orders")
    add("--max_samples", type=count_or_all, help="only the first N samples")
    add("--only_models", type=names, default=[], help="a,b: only these models' plans")
    add("--seed", type=seed, default=0, help="of the order of the requests")
    add("--temperature", type=temperature, default=0.0, help="of the judge (default %(default)s: greedy)")
    add("--omit_fields", type=names, default=[], help="temperature,seed: what it refuses")
    add("--max_new_tokens", type=count, default=1024, help="of a verdict")
    add("--image_tokens_min", type=image_tokens, default=workspace.image_tokens_min, help="image size, in 32x32 pixels")
    add("--image_tokens_max", type=image_tokens, default=workspace.image_tokens_max, help="image size, in 32x32 pixels")
    add("--max_cost", type=usd, help="USD: ask nothing that could pass it (needs prices)")
    add("--input_price", type=usd, help="USD per million tokens of prompts")
    add("--output_price", type=usd, help="USD per million tokens of answers")
    add("--concurrency", type=some_workers, default=8, help="requests at once, at most")
    add("--timeout", type=some_seconds, default=300.0, help="seconds a request may take")
    add("--sleep", type=seconds, default=0.0, help="seconds between the starts of two requests")
    add("--max_retries", type=whole, default=10, help="of a request that failed")
    add("--retry_forever", action="store_true", help="never give a failed request up")
    add("--retry_sleep", type=seconds, default=1.0, help="seconds before the first retry, doubled for each, up to 60")
    add("--verdict_retries", type=whole, default=2, help="of an answer that is no verdict")
    add("--continue_on_error", action="store_true", help="exit with 0 though verdicts are missing")
    add("--no_resume", action="store_true", help="ask everything anew")
    add("--warn_missing_image", action="store_true", help="judge without a missing image instead of stopping")
    add("--workspace_root", type=find, default=workspace.root, help="where relative image paths start")
    return parser.parse_args()


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    arguments = parse_arguments(workspace)
    refuse_reversed(arguments, "image_tokens_min", "image_tokens_max")

    from leap.judge.judges import find_judges, refuse_in_vain

    judges = find_judges(arguments.judge, _judge_options(arguments))
    refuse_in_vain(judges, arguments.pairwise, arguments.max_cost)

    from leap.judge.run_review import run_review
    from leap.report.review_page import write_review

    found = run_review(
        arguments.input_csv,
        arguments.save_dir,
        judges,
        _settings(workspace, arguments),
        workspace.repository,
        arguments.max_samples,
        arguments.only_models,
    )
    for path in [*write_review(found.scores, found.pairs, arguments.baseline), found.scores]:
        print(path)
    if message := found.message():
        print(message)
    return FAILED if found.unscored and not arguments.continue_on_error else None


def _judge_options(arguments: argparse.Namespace):
    from leap.data.image import ImageSize
    from leap.inference.protocol import Decoding
    from leap.judge.judges import JudgeOptions

    limits = {
        "concurrency": arguments.concurrency,
        "timeout": arguments.timeout,
        "interval": arguments.sleep,
        "omit": tuple(arguments.omit_fields),
        "retries": 10**9 if arguments.retry_forever else arguments.max_retries,
        "backoff": arguments.retry_sleep,
        "input_price": arguments.input_price,
        "output_price": arguments.output_price,
    }
    decoding = Decoding(arguments.max_new_tokens, temperature=arguments.temperature, seed=arguments.seed)
    images = ImageSize(arguments.image_tokens_min, arguments.image_tokens_max)
    return JudgeOptions(decoding, images, arguments.api_base, arguments.model, limits)


def _settings(workspace: WorkspaceConfig, arguments: argparse.Namespace):
    from leap.judge.ask_judges import ReviewSettings
    from leap.judge.criteria import CRITERIA

    root = arguments.workspace_root
    return ReviewSettings(
        image_roots=(root, root / "data"),
        repeats=arguments.repeats or len(CRITERIA),
        pairwise=arguments.pairwise,
        seed=arguments.seed,
        retries=arguments.verdict_retries,
        max_cost=arguments.max_cost,
        warn_missing_image=arguments.warn_missing_image,
        reuse=not arguments.no_resume,
    )


if __name__ == "__main__":
    run(main)
