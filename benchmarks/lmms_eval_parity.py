"""Does lmms-eval, on LEAP's tasks, get what run_vlm_evaluation.py gets? Identical responses, and the scores of each.

    python scripts/evaluation/run_vlm_evaluation.py --checkpoint output/checkpoint-180 --max_new_tokens 160
    lmms-eval --include_path integrations/lmms_eval --tasks leap_vlabench --log_samples --output_path OUT ...
    python benchmarks/lmms_eval_parity.py --name checkpoint-180 --lmms_eval OUT --setting async_openai_float32

It reads what both have written. docs/evaluation.md has lmms-eval's command; all dimensions are compared.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import installed  # noqa: F401
import yaml
from compared import REPOSITORY, origin, result_path

from configs.config import WorkspaceConfig
from leap.cli import Parser, run
from leap.errors import LeapError
from leap.evaluation.manifest import read_manifest
from leap.evaluation.predictions import read_predictions
from leap.evaluation.score import read_scores
from leap.records.json_files import read_object, write_json
from leap.vlabench.dimensions import find_dimension
from leap.vlabench.examples import find_examples

TASKS = REPOSITORY / "integrations" / "lmms_eval"


def main() -> None:
    workspace = WorkspaceConfig.find()
    arguments = parse_arguments(workspace)
    found = compare(arguments.lmms_eval, arguments.results, arguments.name, arguments.data_path)
    result = {"benchmark": f"lmms_eval_parity_{arguments.setting}", **origin(arguments.device), **found}
    print(found["parity"])
    write_json(result_path(arguments.output, result), result)


def parse_arguments(workspace: WorkspaceConfig) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--lmms_eval", type=find, required=True, help="its --output_path")
    add("--name", required=True, help="the model's name in LEAP's results")
    add("--results", type=find, default=workspace.eva_results, help="LEAP's results")
    add("--data_path", type=find, default=workspace.vlm_evaluation, help="the benchmark's folder")
    add("--setting", required=True, help="which of lmms-eval's models answered, and in which dtype")
    add("--device", default="cpu", help="cuda or cpu, which both were run on")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    return parser.parse_args()


def task_names() -> dict[str, str]:
    """Dimension -> its task's name in lmms-eval."""
    read = [yaml.safe_load(path.read_text()) for path in sorted(TASKS.glob("*.yaml"))]
    return {config["dataset_name"]: config["task"] for config in read if "dataset_name" in config}


def compare(output: Path, results: Path, model: str, data: Path) -> dict[str, Any]:
    """Responses and scores of lmms-eval's newest run in `output` beside those in LEAP's `results`.

    lmms-eval takes the blanks around a response away, so they do not count. Raises LeapError where one of the two lacks
    an example.
    """
    summary = _newest(output, "*_results.json")
    same, totals, differences, largest, floors = 0, [], [], 0.0, 0.0
    for dimension, task in task_names().items():
        folder = results / dimension / model
        responses, scores = read_predictions(folder / "predictions.jsonl"), read_scores(folder / "final_score.json")
        floor = read_manifest(folder)["blind"]["floor"]
        samples = _samples(summary, task)
        examples = find_examples(data, find_dimension(dimension))
        if len(samples) != len(examples):
            raise LeapError(f"{summary.parent}: {len(samples)} samples of {task} for {len(examples)} examples")
        for example, sample in zip(examples, samples, strict=True):
            ours = scores[example.task][str(example.number)]
            named = {name: score for name, score in ours.items() if name in sample}
            same += (responses[example.key].text or "").strip() == sample["filtered_resps"]
            totals.append(ours["total_score"])
            differences.append(sample["total_score"] - ours["total_score"])
            largest = max(largest, *(abs(sample[name] - score) for name, score in named.items()))
            floors = max(floors, *(abs(sample[f"floor_{name}"] - score) for name, score in floor.items()))
    read = read_object(summary)
    return {
        "lmms_eval": {key: read["config"][key] for key in ("model_backend", "gen_kwargs", "limit")},
        "ours": round(100 * same / len(totals), 2),
        "unit": "percent identical answers",
        "parity": {
            "examples": len(totals),
            "identical": same,
            "plain_total_score": round(statistics.mean(totals), 4),
            "mean_score_difference": round(statistics.mean(differences), 4),
            "mean_absolute_difference": round(statistics.mean(map(abs, differences)), 4),
            "largest_difference_of_any_score": largest,
            "largest_difference_of_a_floor": floors,
        },
    }


def _newest(output: Path, pattern: str) -> Path:
    """Of the files of a run; their names begin with its time."""
    found = sorted(output.rglob(pattern), key=lambda path: path.name)
    if not found:
        raise LeapError(f"{output}: no {pattern} there; run lmms-eval with --output_path and --log_samples")
    return found[-1]


def _samples(summary: Path, task: str) -> list[dict[str, Any]]:
    path = summary.with_name(summary.name.replace("_results.json", f"_samples_{task}.jsonl"))
    if not path.is_file():
        raise LeapError(f"{path}: missing; run lmms-eval with --log_samples and --tasks leap_vlabench")
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda sample: sample["doc_id"])


if __name__ == "__main__":
    run(main)
