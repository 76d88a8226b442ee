"""Do the engines answer as plain generation does? Identical answers, and the difference in score, example by example.

    python benchmarks/evaluation_parity.py --model demo/output/checkpoint-720 --device cpu --image_tokens 64 64
    python benchmarks/evaluation_parity.py --model demo/output/checkpoint-720 --image_tokens 64 64 --engines hf vllm

Plain generation is the library's processor and `generate`, one example after the other, in the same number format. In
float32 every answer must be the same; in bfloat16 batches round otherwise, so that an answer can part from the plain
one where two tokens are almost equally likely.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import installed  # noqa: F401
from compared import REPOSITORY, add_arguments, dtype_of, open_engine, origin, plain_generation, result_path

from leap.cli import Parser, count, run
from leap.data.image import ImageSize
from leap.evaluation.requests import build_requests
from leap.evaluation.score import score_plan
from leap.evaluation.settings import EvaluationSettings
from leap.inference.protocol import Decoding, Request, Response
from leap.records.benchmark import BenchmarkExample
from leap.records.json_files import write_json
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples
from leap.vlabench.parsing import parse_plan
from leap.vlabench.prompts import leap_instructions

DATA = REPOSITORY / "demo" / "dataset" / "vlm_evaluation_v1.0"
Key = tuple[str, ...]


def main() -> None:
    arguments = parse_arguments()
    where = origin(arguments.device)
    size, decoding = ImageSize(*arguments.image_tokens), Decoding(arguments.max_new_tokens)
    examples = [example for dimension in DIMENSIONS for example in find_examples(arguments.data, dimension)]
    settings = EvaluationSettings(arguments.data, leap_instructions(), size, decoding)
    requests = build_requests(examples, examples, settings)
    plain = {
        request.key: text for request, text, _ in plain_generation(arguments.model, size, arguments, requests, decoding)
    }
    print(f"plain generation: {len(plain)} answers", flush=True)
    for name in arguments.engines:
        engine = open_engine(name, arguments.model, size, arguments, arguments.data)
        try:
            responses = ask(engine, requests, decoding)
            described = engine.describe()
        finally:
            engine.close()
        form = f"{name}_{dtype_of(arguments)}"
        result = {"benchmark": f"evaluation_parity_{form}", **where, "settings": {"engine": described}}
        result |= compare(examples, plain, responses)
        print(f"{name}: {result['parity']}", flush=True)
        write_json(result_path(arguments.output, result), result)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_arguments(parser)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a model folder; a trained one has scores to compare")
    add("--data", type=Path, default=DATA, help="a benchmark (default: the demo's)")
    add("--max_new_tokens", type=count, default=256, help="longer answers are cut")
    return parser.parse_args()


def ask(engine: Any, requests: Sequence[Request], decoding: Decoding) -> dict[Key, Response]:
    responses = {response.key: response for response in engine.responses(requests, decoding)}
    failed = [response.error for response in responses.values() if response.error is not None]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(responses)} requests failed: {failed[0]}")
    return responses


def compare(
    examples: Sequence[BenchmarkExample], plain: Mapping[Key, str], responses: Mapping[Key, Response]
) -> dict[str, Any]:
    same, scores, differences = 0, [], []
    for example in examples:
        key = (example.dimension, *example.key)
        texts = plain[key].strip(), str(responses[key].text).strip()
        same += texts[0] == texts[1]
        expected, found = (total_score(example, text) for text in texts)
        scores.append(expected)
        differences.append(found - expected)
    return {
        "ours": round(100 * same / len(examples), 2),
        "unit": "percent identical answers",
        "parity": {
            "examples": len(examples),
            "identical": same,
            "plain_total_score": round(statistics.mean(scores), 4),
            "mean_score_difference": round(statistics.mean(differences), 4),
            "mean_absolute_difference": round(statistics.mean(map(abs, differences)), 4),
        },
    }


def total_score(example: BenchmarkExample, text: str) -> float:
    total = score_plan(example.task, example.skill_sequence, parse_plan(text))["total_score"]
    assert total is not None
    return total


if __name__ == "__main__":
    run(main)
