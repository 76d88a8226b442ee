"""The benchmark while training: its scores are an evaluation's, and training is what it would be without it."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PYTHONPATH, REPOSITORY, TINY_RECIPE, run_script
from safetensors.torch import load_file
from sharded_state import leave
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leap.errors import LeapError
from leap.evaluation.predictions import read_predictions
from leap.evaluation.training_benchmark import TrainingBenchmark, benchmark_maker, draw_examples
from leap.inference.protocol import Response
from leap.models.loading import load_model, load_processor
from leap.models.qwen3_vl import packed_forward
from leap.models.twin import twin
from leap.report.results import dimension_means, read_scores
from leap.training import fine_tune
from leap.training.recipe import read_recipe
from leap.training.stopping import best_step, has_stopped
from leap.vlabench.dimensions import NAMES
from leap.vlabench.prompts import fenced_plan

FINETUNE = "scripts/training/run-finetuning.py"
EVALUATE = "scripts/evaluation/run_vlm_evaluation.py"
SMALL = "--image_tokens_min 4 --image_tokens_max 9".split()
STEPS = 4
VALUES = {
    "max_steps": STEPS, "save_steps": STEPS, "eval_steps": 2, "warmup_steps": 0, "logging_steps": 1,
    "per_device_train_batch_size": 4, "image_tokens_min": 4, "image_tokens_max": 9, "learning_rate": 1e-3,
    "report_to": "tensorboard",
}  # fmt: skip
OPTIONS = ["--recipe", TINY_RECIPE, *(word for name, value in VALUES.items() for word in (f"--{name}", str(value)))]
LORA = {"finetuning": "lora", "lora_r": 4, "lora_dropout": 0.2}
NEW_TOKENS = 6  # of a response: the tiny model never ends one


def train(workspace: Path, name: str, **values: Any) -> Path:
    """The last checkpoint of a run with these values."""
    recipe = read_recipe(Path(TINY_RECIPE), {**VALUES, "output_dir": f"output/{name}", **values})
    benchmark = benchmark_maker(workspace / "dataset" / "vlm_evaluation_v1.0", workspace / "VLABench", NEW_TOKENS)
    checked = fine_tune.check_run(recipe, workspace, workspace / ".cache", benchmark=benchmark)
    return fine_tune.train(checked, REPOSITORY, workspace / "logs")


def log_of(checkpoint: Path) -> list[dict[str, Any]]:
    return json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]


def values(checkpoint: Path, name: str) -> list[float]:
    return [entry[name] for entry in log_of(checkpoint) if name in entry]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("packed", {}),
        pytest.param("padded", {"packing": False, "gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param("lora", LORA, marks=pytest.mark.slow),
    ],
)
def test_training_is_what_it_would_be_without_it(
    workspace: Path, name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and weights to the last bit, also with dropout, whose random numbers go on; and responses and scores are
    those that an evaluation of the checkpoint has."""
    means, seen = TrainingBenchmark._means, []

    def watch(self: TrainingBenchmark, responses: Sequence[Response]) -> dict[str, float]:
        seen.append({response.key: response.text for response in responses})
        return means(self, responses)

    monkeypatch.setattr(TrainingBenchmark, "_means", watch)
    plain = train(workspace, f"{name}-plain", **options)
    watched = train(workspace, f"{name}-watched", **options, eval_benchmark=12)
    for logged in ("loss", "grad_norm"):
        assert values(watched, logged) == values(plain, logged)
        assert len(values(plain, logged)) == 4
    file = "adapter_model.safetensors" if name == "lora" else "model.safetensors"
    before, after = load_file(plain / file), load_file(watched / file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)

    scores = {score: values(watched, f"eval_{score}") for score in ("grounded", "total_score")}
    assert [len(found) for found in scores.values()] == [2, 2]
    options_of_it = ["--checkpoint", str(watched), "--model_name", name, "--max_new_tokens", str(NEW_TOKENS)]
    done = run_script(EVALUATE, *options_of_it, "--device", "cpu", *SMALL, root=workspace)
    assert done.returncode == 0, done.stderr
    results = workspace / "eva_results"
    stored = read_scores(results, [name])
    predictions = {dimension: read_predictions(results / dimension / name / "predictions.jsonl") for dimension in NAMES}
    texts = {(dimension, *key): one.text for dimension, found in predictions.items() for key, one in found.items()}
    assert seen[-1] == texts
    assert len(set(texts.values())) > 1
    assert seen[0] != seen[1]  # each is of the model as it is
    for score, found in scores.items():
        assert found[-1] == pytest.approx(dimension_means(stored, score).loc[name, "mean"])
    events = EventAccumulator(str(workspace / "logs" / "tensorboard" / f"{name}-watched"))
    events.Reload()
    assert [event.value for event in events.Scalars("eval/grounded")] == pytest.approx(scores["grounded"])
    assert [event.step for event in events.Scalars("eval/total_score")] == [2, 4]


def test_a_twin_generates_and_the_model_stays_as_it_is(model: Path, workspace: Path) -> None:
    from leap.data.image import ImageEncoder, ImageSize
    from leap.training.loop import cross_entropy
    from leap.training.memory_plan import checkpoint

    plain = load_model(model, "float32").eval()
    training = load_model(model, "float32").train()
    packed_forward.install(training, ImageEncoder(load_processor(model), ImageSize(4, 9)), False, cross_entropy)
    checkpoint(training, "all")
    forward, attention = training.forward, training.config.text_config._attn_implementation
    found = twin(training)
    assert training.forward == forward
    assert training.config.text_config._attn_implementation == attention == packed_forward.NAME
    assert all(module.training for module in training.modules())
    assert not any(module.training for module in found.modules())
    assert all(one is other for one, other in zip(found.parameters(), training.parameters(), strict=True))
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(found(input_ids=ids).logits, plain(input_ids=ids).logits)
        training.lm_head.weight.mul_(0.5)  # as far as training is
        assert not torch.equal(found(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_scores_are_means_of_the_dimensions_means(workspace: Path) -> None:
    recipe = read_recipe(Path(TINY_RECIPE), {**VALUES, "eval_benchmark": 9})
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    benchmark = TrainingBenchmark(data, workspace / "VLABench", NEW_TOKENS, recipe)
    assert Counter(example.dimension for example in benchmark.examples) == dict(
        zip(NAMES, (2, 2, 2, 1, 1, 1), strict=True)
    )
    right = benchmark.examples[0]  # one of two, in one of six dimensions
    responses = [
        Response((one.dimension, *one.key), fenced_plan(one.skill_sequence) if one is right else "no", "stop")
        for one in benchmark.examples
    ]
    assert benchmark._means(responses) == pytest.approx({"eval_grounded": 100 / 12, "eval_total_score": 80 / 12})


def test_an_example_without_a_response_leaves_no_score(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its image goes after the run was checked, say: training goes on."""
    data = Path(shutil.copytree(workspace / "dataset" / "vlm_evaluation_v1.0", workspace / "broken"))
    recipe = read_recipe(Path(TINY_RECIPE), {**VALUES, "output_dir": "output/broken", "eval_benchmark": 12})
    maker = benchmark_maker(data, workspace / "VLABench", NEW_TOKENS)
    checked = fine_tune.check_run(recipe, workspace, workspace / ".cache", benchmark=maker)
    next(data.glob("*/*/example0/input/input.png")).write_bytes(b"no image")
    checkpoint = fine_tune.train(checked, REPOSITORY, workspace / "logs")
    assert values(checkpoint, "eval_grounded") == values(checkpoint, "eval_total_score") == []
    assert len(values(checkpoint, "eval_benchmark_runtime")) == 2
    assert "warning: step 2: 1 of the benchmark's 12 examples have no response" in capsys.readouterr().err


def test_each_dimension_gives_as_many_as_it_has() -> None:
    class Named:
        def __init__(self, dimension: str, number: int) -> None:
            self.dimension, self.number = dimension, number

    pools: Any = [[Named(name, number) for number in range(size)] for name, size in (("a", 9), ("b", 2), ("c", 9))]
    drawn = draw_examples(pools, 10, 1)
    assert [sum(one.dimension == name for one in drawn) for name in "abc"] == [4, 2, 4]
    assert drawn == draw_examples(pools, 10, 1)
    assert drawn != draw_examples(pools, 10, 2)
    assert draw_examples(pools, 4, 1) == drawn[:4]
    with pytest.raises(LeapError, match="eval_benchmark=21: the benchmark has 20 examples here"):
        draw_examples(pools, 21, 1)


@pytest.mark.slow
def test_the_best_checkpoint_and_early_stopping_follow_the_metric(workspace: Path) -> None:
    history = [(10, 3.0, 5.0), (20, 2.0, 9.0), (30, 1.0, 9.0), (40, 0.5, 7.0)]
    log = [{"step": step, "eval_loss": loss, "eval_grounded": score} for step, loss, score in history]
    assert (best_step(log), best_step(log, metric="grounded"), best_step(log, metric="total_score")) == (40, 20, None)
    assert (has_stopped(log, 2), has_stopped(log, 2, "grounded"), has_stopped(log, 3, "grounded")) == (
        False,
        True,
        False,
    )
    # A rate of 1e-9 learns nothing: no evaluation is better than the first.
    options = {
        "metric_for_best_model": "eval_total_score", "eval_steps": 1, "early_stopping_patience": 2,
        "learning_rate": 1e-9, "max_steps": 20, "save_total_limit": 1,
    }  # fmt: skip
    output = train(workspace, "stops", eval_benchmark=6, **options).parent
    assert sorted(folder.name for folder in output.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-3"]
    # Asked other examples it has not stopped: none of its scores is theirs.
    train(workspace, "stops", eval_benchmark=7, **options)
    assert sorted(folder.name for folder in output.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_scores_of_other_examples_are_not_compared(workspace: Path) -> None:
    last = train(workspace, "others", eval_benchmark=6, save_steps=2)
    assert len(values(last, "eval_grounded")) == 2
    shutil.rmtree(last)
    again = train(workspace, "others", eval_benchmark=7, save_steps=2)
    assert len(values(again, "eval_grounded")) == len(values(again, "eval_grounded_of_other_examples")) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--metric_for_best_model", "grounded"], "metric_for_best_model=grounded needs eval_benchmark"),
        (
            ["--eval_benchmark", "6", "--metric_for_best_model", "loss", "--early_stopping_patience", "2"],
            "early_stopping_patience needs a val_file",
        ),
        (["--eval_benchmark", "6", "--eval_strategy", "no"], "eval_benchmark needs an eval_strategy other than no"),
        (["--eval_benchmark", "6", "--fsdp"], "eval_benchmark needs whole weights on every rank; take it or fsdp"),
        (["--metric_for_best_model", "luck"], "--metric_for_best_model luck"),
    ],
)
def test_what_does_not_fit_together_is_refused(workspace: Path, options: list[str], words: str) -> None:
    done = run_script(FINETUNE, "--recipe", TINY_RECIPE, "--dry_run", *options, root=workspace)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_the_plan_says_it_and_a_missing_benchmark_is_refused_before_training(workspace: Path) -> None:
    planned = [*OPTIONS, *SMALL, "--dry_run", "--output_dir", "output/planned", "--eval_benchmark"]
    done = run_script(FINETUNE, *planned, "6", root=workspace)
    assert done.returncode == 0, done.stderr
    assert "benchmark   6 examples, every 2 steps and after the last" in done.stdout
    for patience, steps in (("null", 8), ("6", 5)):  # a fifth of the run, or often enough to stop early
        seldom = ["--max_steps", "41", "--eval_steps", "null", "--early_stopping_patience", patience]
        done = run_script(FINETUNE, *planned, "6", *seldom, root=workspace)
        assert f"benchmark   6 examples, every {steps} steps and after the last" in done.stdout, done.stderr
    done = run_script(FINETUNE, *planned, "999", root=workspace)
    assert (done.returncode, "eval_benchmark=999: the benchmark has 12 examples here" in done.stderr) == (1, True)


ONCE = {"eval_benchmark": 7, "eval_steps": STEPS}


@pytest.mark.slow
def test_two_ranks_answer_their_shares(workspace: Path) -> None:
    """Unequal ones, so that one rank waits for the other; the scores are those of one rank with the same weights."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, __file__, str(workspace)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    alone, both = train(workspace, "one-rank", **ONCE), workspace / "output" / "two-ranks-asked" / f"checkpoint-{STEPS}"
    assert values(both, "loss") == pytest.approx(values(alone, "loss"), abs=2e-4)
    assert values(both, "eval_total_score") == pytest.approx(values(alone, "eval_total_score"), abs=1e-6)
    assert len(values(both, "eval_grounded")) == 1


if __name__ == "__main__":  # a rank of the test above
    train(Path(sys.argv[1]), "two-ranks-asked", **ONCE, per_device_train_batch_size=2)
    leave()


def test_without_a_validation_file_the_best_is_the_benchmarks() -> None:
    assert read_recipe(Path(TINY_RECIPE), {"eval_benchmark": 6}).metric_for_best_model == "grounded"
    assert read_recipe(Path(TINY_RECIPE), {"eval_benchmark": 6, "val_file": "x"}).metric_for_best_model == "loss"
