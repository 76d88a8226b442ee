"""LEAP's tasks for lmms-eval: what they take from LEAP, and lmms-eval itself, which must get what LEAP gets."""

import importlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, run_script
from lmms_eval_parity import TASKS, compare, task_names
from PIL import ImageChops
from test_openai_engine import served

from leap.data.image import ImageSize, load_image
from leap.evaluation.lmms_eval import documents, messages, scores
from leap.evaluation.requests import build_requests
from leap.evaluation.score import score_predictions
from leap.evaluation.settings import EvaluationSettings
from leap.inference.protocol import Decoding
from leap.records.benchmark import Prediction
from leap.vlabench.blind import blind_scores
from leap.vlabench.dimensions import DIMENSIONS, find_dimension
from leap.vlabench.examples import find_examples
from leap.vlabench.prompts import fenced_plan, leap_instructions

INTERPRETER = "LMMS_EVAL_PYTHON"
__all__ = ["served"]  # a server with the tiny model


@pytest.fixture(scope="module")
def data(workspace: Path) -> Path:
    return workspace / "dataset" / "vlm_evaluation_v1.0"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_message_is_the_evaluations_request(data: Path, language: Any) -> None:
    instructions = leap_instructions(language)
    settings = EvaluationSettings(data, instructions, ImageSize(4, 9), Decoding())
    for dimension in DIMENSIONS:
        examples = find_examples(data, dimension)
        asked = build_requests(examples, examples, settings)
        for request, document in zip(asked, documents(data, dimension, instructions), strict=True):
            (message,), images = messages(document), iter(request.images)
            assert request.key == (document["dimension"], document["task"], document["example"])
            for part, theirs in zip(request.messages[0].parts(), message["content"], strict=True):
                assert part.type == theirs["type"]
                if part.type == "text":
                    assert part.text == theirs["text"]
                else:
                    assert ImageChops.difference(load_image(next(images)), theirs["url"]).getbbox() is None
            assert next(images, None) is None


def test_a_response_is_scored_as_in_the_evaluation(data: Path) -> None:
    dimension = find_dimension("Complex")
    examples = find_examples(data, dimension)
    floor = blind_scores(examples)["floor"]
    for example, document in zip(examples, documents(data, dimension, leap_instructions()), strict=True):
        plans = [fenced_plan(other.skill_sequence) for other in examples]
        as_text = fenced_plan([{"name": "pick", "params": {"target_entity_name": "1"}}])
        for text in (*plans, as_text, "```json\n[{", "no plan", "", "<think>```json\n[]\n```</think>"):
            prediction = Prediction(task=example.task, example=str(example.number), text=text, finish="stop")
            expected = score_predictions([example], {example.key: prediction})[0][example.task][str(example.number)]
            found = scores(document, [text])
            assert found["format_error"] == 100 * (text in ("```json\n[{", "no plan", ""))
            assert found["inference_error"] == 0
            assert {name: found[f"floor_{name}"] for name in floor} == floor
            assert {name: expected[name] for name in found if name in expected} == {
                name: score for name, score in found.items() if name in expected
            }
            assert {"total_score", "grounded", "weighted_total", "exact_match_score"} <= found.keys() & expected.keys()


def test_a_request_that_failed_has_no_score(data: Path) -> None:
    document = documents(data, find_dimension("Spatial"), leap_instructions())[0]
    for failed in ("[LMMS_EVAL_REQUEST_FAILED after 5 retries] Connection error.", "[LMMS_EVAL_BUDGET_EXCEEDED]"):
        assert scores(document, [failed]) == {"inference_error": 100}


def test_grounded_is_left_out_where_the_reference_names_no_object(data: Path) -> None:
    document = documents(data, find_dimension("Spatial"), leap_instructions())[0]
    found = scores({**document, "reference": '[{"name": "lift", "params": {}}]'}, ["```json\n[]\n```"])
    assert "grounded" not in found
    assert found["total_score"] == 0


class Loader(yaml.SafeLoader):
    """Reads the task files as lmms-eval does: !function is what a name means."""


def _named(loader: Loader, node: yaml.ScalarNode) -> Any:
    module, _, name = str(loader.construct_scalar(node)).rpartition(".")
    return name if module == "utils" else getattr(importlib.import_module(module), name)


Loader.add_constructor("!function", _named)


def read_task(name: str) -> dict[str, Any]:
    return yaml.load((TASKS / name).read_text(), Loader)


def test_the_task_files_have_every_dimension_and_every_score(data: Path) -> None:
    template, group = read_task("_default_template_yaml"), read_task("leap_vlabench.yaml")
    assert set(task_names()) == {dimension.name for dimension in DIMENSIONS}
    assert sorted(group["task"]) == sorted(task_names().values())
    found = scores(documents(data, find_dimension("Spatial"), leap_instructions())[0], [""])
    for listed in (template["metric_list"], group["aggregate_metric_list"]):
        assert {one["metric"] for one in listed} == found.keys()
    assert template["process_results"] is scores
    assert template["doc_to_messages"] is messages


# The real one


@pytest.fixture(scope="module")
def lmms_eval() -> str:
    """The Python that has lmms-eval."""
    python = os.environ.get(INTERPRETER)
    if not python:
        pytest.skip(f"{INTERPRETER} names no Python that has lmms-eval; docs/evaluation.md says how to make one")
    return python


@pytest.mark.slow
def test_lmms_eval_gets_what_leap_gets(
    lmms_eval: str, served: str, workspace: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    evaluated = run_script(
        "scripts/evaluation/run_vlm_evaluation.py",
        *f"--checkpoint {model} --model_name tiny --device cpu --max_new_tokens 16 --output_dir {tmp_path}".split(),
        root=workspace,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    asked = subprocess.run(
        [
            *(lmms_eval, "-m", "lmms_eval", "--include_path", str(TASKS), "--tasks", "leap_vlabench"),
            *("--model", "async_openai", "--gen_kwargs", "max_new_tokens=16"),
            *("--model_args", f"model_version={model},base_url={served},api_key=none,num_cpus=2"),
            *("--output_path", str(tmp_path / "lmms_eval"), "--log_samples"),
        ],
        env={**os.environ, "LEAP_ROOT": str(workspace), "PYTHONPATH": str(REPOSITORY), "HF_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    said = asked.stdout + asked.stderr  # its exit code is 0 whatever became of it
    assert list((tmp_path / "lmms_eval").rglob("*_results.json")), said
    found = compare(tmp_path / "lmms_eval", tmp_path, "tiny", data)["parity"]
    assert found["examples"] == found["identical"] == 12
    assert found["largest_difference_of_any_score"] == found["largest_difference_of_a_floor"] == 0
