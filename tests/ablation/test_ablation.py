"""The LoRA ablation: runs that are alike, adapters that go on learning, findings that show what is missing."""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from conftest import REPOSITORY, TINY_RECIPE, run_script
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from scipy import stats
from test_families import one_thread
from test_jobs import alive
from test_recipes import LORA, tiny_recipe, train

from leap.ablation import stages
from leap.ablation.ablation_figures import score_by_cost
from leap.ablation.ablation_plan import aligned, kept_steps, plan_runs
from leap.ablation.ablation_report import readable, write_report
from leap.ablation.effect_tables import (
    BASE,
    Findings,
    Outcome,
    collect,
    dimension_table,
    gain_table,
    method_table,
    run_table,
)
from leap.ablation.runs import FULL, Scripts, label, make_runs, refuse_unlike
from leap.ablation.stages import Places
from leap.data.image import ImageSize
from leap.errors import LeapError, UsageError
from leap.models.checkpoints import ADAPTER, small_files, weights_hash
from leap.records.locks import FolderLock
from leap.report import style
from leap.report.curves import Loss
from leap.report.results import dimension_means
from leap.statistics.comparison import holm
from leap.statistics.intervals import student_interval
from leap.supervise import descendants
from leap.training import fine_tune as runs
from leap.training.dry_run import costs
from leap.training.overrides import add_recipe_flags, recipe_overrides
from leap.training.presets import known_presets, read_preset
from leap.training.recipe import read_recipe
from leap.training.trainable_model import load_trainable
from leap.vlabench.dimensions import NAMES

RECIPES = REPOSITORY / "configs" / "recipes"
SCRIPTS = REPOSITORY / "scripts"
LORA_SCRIPT, ABLATION = "scripts/ablation/run-lora-finetuning.py", "scripts/ablation/run-ablation-experiments.py"
PRESETS = ["light", "standard", "full", "aggressive"]
__all__ = ["one_thread"]  # a fixture that every test here uses


def scripts(demo: bool = False) -> Scripts:
    full, shared = RECIPES / ("demo-full.yaml" if demo else "full.yaml"), RECIPES / "demo-lora.yaml" if demo else None
    return Scripts(SCRIPTS, RECIPES, full, shared)


# --- presets and runs


def test_presets_come_by_rank_and_can_be_put_on_another_training() -> None:
    assert known_presets(RECIPES) == PRESETS
    recipe = read_preset(RECIPES, "light", {"lora_r": 4}, RECIPES / "demo-lora.yaml")
    assert (recipe.lora_r, recipe.lora_alpha, recipe.lora_target_modules) == (4, 16, ["q_proj", "v_proj"])
    assert (recipe.model_name_or_path, recipe.output_dir) == ("models/leap-tabletop", "output/lora_light")
    with pytest.raises(LeapError, match=r"'heavy'.*there are: light, standard, full, aggressive"):
        read_preset(RECIPES, "heavy", {})


def test_epochs_that_are_asked_for_count() -> None:
    """A preset has 7,000 steps, which would go before them."""
    assert read_preset(RECIPES, "light", {"num_train_epochs": 1}).max_steps is None
    assert read_preset(RECIPES, "light", {"num_train_epochs": 1, "max_steps": 5}).max_steps == 5
    assert read_preset(RECIPES, "light", {}).max_steps == 7000


def test_the_runs_of_the_real_ablation() -> None:
    made = make_runs(scripts(), PRESETS, True, 2, {})
    assert [run.name for run in made[:2]] == ["lora_light", "lora_light_seed43"]
    assert [run.name for run in made[-2:]] == [FULL, f"{FULL}_seed43"]
    assert {run.recipe.max_steps for run in made} == {7000}
    assert {run.recipe.global_batch_size(1) for run in made} == {36}
    assert {run.seed for run in made} == {42, 43}
    assert [label(run.method) for run in made[::2]] == [
        "LoRA light", "LoRA standard", "LoRA full", "LoRA aggressive", "full fine-tuning"
    ]  # fmt: skip


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "max_steps": st.integers(1, 9000) | st.none(),
        "num_train_epochs": st.floats(0.1, 5),
        "weight_decay": st.floats(0, 1e-5),
        "bf16": st.booleans(),
        "train_file": st.sampled_from(["data/a b.jsonl", "data/null.jsonl"]),
        "warmup_steps": st.integers(0, 9),
        "lr_scheduler_type": st.sampled_from(["linear", "cosine"]),
        "lr_scheduler_kwargs": st.fixed_dictionaries({"min_lr": st.sampled_from([1e-6, 3.5e-5, 0.1])}),
    },
)


@settings(max_examples=12)
@given(VALUES, st.booleans(), st.integers(1, 3))
@example({"lr_scheduler_kwargs": {"min_lr": 1e-6}}, False, 1)
def test_a_runs_command_gives_its_very_recipe(values: dict[str, Any], demo: bool, seeds: int) -> None:
    for run in make_runs(scripts(demo), ["standard"], True, seeds, values, "x"):
        parser = argparse.ArgumentParser()
        parser.add_argument("--recipe", type=Path)
        parser.add_argument("--lora_preset")
        add_recipe_flags(parser)
        found = parser.parse_args(run.command[2:])
        if run.method == FULL:
            assert run.command[1].endswith("run-finetuning.py")
            assert read_recipe(found.recipe, recipe_overrides(found)) == run.recipe
        else:
            assert run.command[1].endswith("run-lora-finetuning.py")
            assert read_preset(RECIPES, found.lora_preset, recipe_overrides(found), found.recipe) == run.recipe


@pytest.mark.parametrize("key", ["seed", "warmup_steps", "train_file", "model_max_length", "bf16", "max_steps"])
def test_methods_that_differ_in_more_than_their_method_are_refused(key: str) -> None:
    one, other = tiny_recipe(lr_scheduler_type="linear"), tiny_recipe(lr_scheduler_type="linear", **LORA)
    value = {"train_file": "other.jsonl", "bf16": True}.get(key, 7)
    with pytest.raises(LeapError, match=f"not comparable: {key} is"):
        refuse_unlike({"a": one, "b": other.model_copy(update={key: value})})
    micro = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "learning_rate": 0.5, "save_steps": 9}
    refuse_unlike({"a": one, "b": other.model_copy(update=micro)})  # as many rows a step


PATIENT = {"early_stopping_patience": 2, "val_file": "validation.jsonl"}


@pytest.mark.parametrize(
    ("presets", "seeds", "values", "message"),
    [
        (["light"], 1, {"lora_r": 4}, "--lora_r: each method has its own"),
        (["light"], 1, {"output_dir": "x"}, "--name NAME"),
        (["light", "light"], 1, {}, "each preset once"),
        (["light"], 0, {}, "1 or more"),
        (["light"], 1, PATIENT, "early_stopping_patience=2 .* for as many steps"),
    ],
)
def test_what_an_ablation_cannot_be_is_wrong_usage(
    presets: list[str], seeds: int, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_runs(scripts(), presets, False, seeds, values)


def test_a_recipe_that_may_end_early_is_none_of_an_ablations(tmp_path: Path) -> None:
    patient = tmp_path / "full.yaml"
    patient.write_text(yaml.safe_dump(yaml.safe_load((RECIPES / "full.yaml").read_text()) | PATIENT))
    both = Scripts(SCRIPTS, RECIPES, patient)
    with pytest.raises(UsageError, match="full fine-tuning: early_stopping_patience=2"):
        make_runs(both, ["light"], True, 1, {})
    make_runs(both, ["light"], False, 1, {})
    make_runs(both, ["light"], True, 1, {"early_stopping_patience": None})


def test_kept_steps(workspace: Path) -> None:
    recipe = tiny_recipe(max_steps=7, save_steps=2, save_total_limit=3, output_dir="output/kept")
    assert kept_steps(runs.check_run(recipe, workspace, workspace / ".cache")) == [4, 6, 7]


def test_help_shows_no_flag_that_is_refused() -> None:
    shown = run_script(ABLATION, "--help").stdout
    assert "--max_steps" in shown
    assert not re.search("--lora_r |--learning_rate |--output_dir |--early_stopping_patience ", shown)


# --- adapters that go on learning


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def start(workspace: Path) -> Path:
    return train(workspace, "start", learning_rate=0.01, max_steps=1, **LORA)


def test_a_run_from_an_adapter_begins_there_and_really_trains(workspace: Path, start: Path) -> None:
    values = {**LORA, "resume_from_lora": "output/start/checkpoint-1", "max_steps": 1, "weight_decay": 0.0}
    still = train(workspace, "start_still", learning_rate=1e-9, **values)
    moved = train(workspace, "start_moved", **values)
    begun, same, other = map(adapter, (start, still, moved))
    assert all(torch.allclose(begun[name], same[name], atol=1e-7) for name in begun)
    assert all(not torch.equal(begun[name], other[name]) for name in begun)


def test_a_run_goes_on_without_the_adapter_that_it_began_with(workspace: Path, start: Path) -> None:
    begun = Path(shutil.copytree(start, workspace / "output" / "start_gone"))
    values = {**LORA, "resume_from_lora": "output/start_gone", "max_steps": 2, "save_steps": 1}
    last = train(workspace, "from_gone", **values)
    weights = adapter(last)
    shutil.rmtree(begun)
    shutil.rmtree(last)
    again = adapter(train(workspace, "from_gone", **values))
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_the_newest_checkpoint_of_the_runs_own_continues_it(workspace: Path) -> None:
    values = {**LORA, "max_steps": 2, "save_steps": 1}
    whole = train(workspace, "own", **values)
    broken = Path(shutil.copytree(whole.parent, workspace / "output" / "own_broken"))
    shutil.rmtree(broken / "checkpoint-2")
    first = "output/own_broken/checkpoint-1"
    resumed = train(workspace, "own_broken", resume_from_lora=first, **values)
    assert all(torch.equal(adapter(whole)[name], weight) for name, weight in adapter(resumed).items())
    assert any(not torch.equal(adapter(workspace / first)[name], weight) for name, weight in adapter(resumed).items())
    with pytest.raises(LeapError, match=r"goes on from its newest checkpoint.*checkpoint-2.*--output_dir"):
        train(workspace, "own_broken", resume_from_lora=first, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_r": 8}, "it has lora_r=4, this run 8; give --lora_r 4"),
        ({"lora_target_modules": ["q_proj"]}, "its adapters are not this run's"),
        ({"resume_from_lora": "models/tiny"}, "no LoRA adapter lies there"),
    ],
)
def test_an_adapter_that_is_another_runs_is_refused(
    workspace: Path, start: Path, values: dict[str, Any], message: str
) -> None:
    common = {**LORA, "resume_from_lora": str(start), "output_dir": "output/never"}
    with pytest.raises(LeapError, match=message):
        runs.check_run(tiny_recipe(**{**common, **values}), workspace, workspace / ".cache")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rank_pattern": {"layers.0.self_attn.q_proj": 2}}, "its rank_pattern gives single layers"),
        ({"alpha_pattern": {"q_proj": 64}}, "its alpha_pattern gives single layers"),
        ({"init_lora_weights": "pissa_niter_16"}, "on weights that its own start changed"),
    ],
)
def test_an_adapter_of_unlike_scales_is_no_start(
    workspace: Path, start: Path, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    """Its weights would fit, and say something else."""
    other = Path(shutil.copytree(start, tmp_path / "other"))
    settings = json.loads((other / ADAPTER).read_text())
    (other / ADAPTER).write_text(json.dumps({**settings, **changed}))
    with pytest.raises(LeapError, match=words):
        runs.check_run(tiny_recipe(resume_from_lora=str(other), **LORA), workspace, workspace / ".cache")


def test_a_start_that_leap_did_not_train_names_its_base(workspace: Path, start: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(start, tmp_path / "other"))
    (other / "leap_run.json").unlink()
    settings = json.loads((other / ADAPTER).read_text())
    (other / ADAPTER).write_text(json.dumps({**settings, "base_model_name_or_path": "someone/their-base"}))
    recipe = tiny_recipe(resume_from_lora=str(other), output_dir="output/theirs", **LORA)
    learning = runs.check_run(recipe, workspace, workspace / ".cache").trainable.lines
    assert any("says that its base is someone/their-base" in line for line in learning)


def test_an_adapter_of_another_base_is_no_start(workspace: Path, model: Path, start: Path, tmp_path: Path) -> None:
    marker = json.loads((start / "leap_run.json").read_text())
    assert marker["base_model"] == weights_hash(model)
    moved = Path(shutil.copytree(start, tmp_path / "checkpoint-1"))
    (moved / "leap_run.json").write_text(json.dumps({**marker, "base_model": "0" * 64}))
    with pytest.raises(LeapError, match=r"was trained on other weights.*--base_model_path"):
        runs.check_run(tiny_recipe(resume_from_lora=str(moved), **LORA), workspace, workspace / ".cache")


def test_the_preset_script_shows_layers_weights_and_share(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_PRESET", "light")
    flags = (
        f"--recipe {TINY_RECIPE} --lr 1e-4 --epochs 2 --batch_size 2 --warmup_steps 2 --output_dir output/told".split()
    )
    done = run_script(LORA_SCRIPT, *flags, "--dry_run", root=workspace)
    assert done.returncode == 0, done.stderr
    assert "on 4 layers (llm: 2 x q_proj, 2 x v_proj)" in done.stdout
    assert "parameters are trainable (0." in done.stdout
    assert "steps       24 of 2 samples, learning rate 0.0001" in done.stdout
    assert f"checkpoints {workspace}/output/told/" in done.stdout
    refused = run_script(LORA_SCRIPT, *flags, "--lora_target_modules", "qkv", "--dry_run", root=workspace)
    assert refused.returncode == 1
    assert "qkv fits no linear layer of lora_parts=llm; 3 layers of vision fit" in refused.stderr


# --- the plan


def test_the_plan_fits_a_narrow_screen() -> None:
    rows = [("run", "trainable", "state"), ("ablation-lora_standard-seed-1", "1,234,567", "not trained")]
    wide = aligned(rows, 200)
    assert wide == aligned(rows, None)
    assert wide[1] == "ablation-lora_standard-seed-1  1,234,567  not trained"
    narrow = aligned(rows, 40)
    assert max(map(len, narrow)) <= 40
    assert narrow[2:] == ["ablation-lora_standard-seed-1", "  1,234,567  not trained"]


def test_the_plan_shows_costs_and_trains_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MAX_STEPS": "6", "LORA_PRESETS": "light full", "LORA_STEPS": "6"}.items():
        monkeypatch.setenv(name, value)
    words = "batch --demo --dry_run --warmup_steps 5 --seeds 2 --name planned".split()
    words += ["--model_name_or_path", "models/tiny"]
    done = run_script(ABLATION, *words, root=workspace)
    assert done.returncode == 0, done.stderr
    for message in (
        "seeds       42, 43",
        "planned_lora_full_seed43",
        "planned_full_finetuning",
        "to train",
        "evaluation  7",
    ):
        assert message in done.stdout
    assert not list((workspace / "output").glob("planned_*"))
    refused = run_script(ABLATION, *words, "--steps", "5", root=workspace)
    assert refused.returncode == 2
    assert "--steps 5: planned_lora_light keeps the checkpoints 6" in refused.stderr


@pytest.mark.parametrize(
    "values", [{}, {"lora_parts": "projector", "lora_target_modules": "linear_fc1"}, {"use_dora": True}]
)
def test_planned_weights_are_those_that_learn(workspace: Path, model: Path, values: dict[str, Any]) -> None:
    recipe = tiny_recipe(output_dir="output/counted", **LORA, **values)
    learning = [weight for weight in load_trainable(recipe, model).parameters() if weight.requires_grad]
    planned = costs(runs.check_run(recipe, workspace, workspace / ".cache"))
    assert sum(weight.numel() for weight in learning) == planned.trained


# --- findings


POINTS = {"Baseline": 0, "lora_light-checkpoint-2": 10, "lora_light_seed43-checkpoint-2": 20,
          "full_finetuning-checkpoint-2": 40, "full_finetuning_seed43-checkpoint-2": 41}  # fmt: skip


def scores() -> pd.DataFrame:
    """Every model's total is its points, give or take the example's number."""
    return pd.DataFrame(
        [
            {"dimension": name, "model": model, "task": f"task{task}", "example": str(number),
             "total_score": points + number + 2 * task}
            for model, points in POINTS.items()
            for name in NAMES
            for task in range(2)
            for number in range(4)
        ]
    )  # fmt: skip


def outcome(model: str, method: str, seed: int, state: str = "complete") -> Outcome:
    there = state == "complete"
    loss = Loss(checkpoint=Path(model), training={step: 5.0 / step for step in range(1, 30)}, validation={})
    weights = 2_000_000 if method == FULL else 10_000
    return Outcome(
        label(method), model.rpartition("-checkpoint")[0], seed, 2, model, weights, 0.5, 1.5 if there else None,
        8.0 if there else None, "H100" if there else None, loss if there else None, state,
    )  # fmt: skip


@pytest.fixture
def findings() -> Findings:
    """Light and full fine-tuning with two seeds; standard is not trained."""
    table = scores()
    made = [outcome(name, name.partition("-")[0].removesuffix("_seed43"), 43 if "43" in name else 42)
            for name in list(POINTS)[1:]]  # fmt: skip
    made.insert(2, outcome("lora_standard-checkpoint-2", "lora_standard", 42, "not trained"))
    grounded = dimension_means(table) / 2
    return Findings(made, table, dimension_means(table), "Baseline", "complete", grounded=grounded)


def test_what_is_missing_is_shown_missing_and_never_zero(findings: Findings) -> None:
    assert findings.missing == ["lora_standard-checkpoint-2: not trained"]
    dimensions = dimension_table(findings)
    standard = dimensions[dimensions["method"] == "LoRA standard"]
    assert len(standard) == 7
    assert standard[["mean", "low", "high", "seed_low"]].isna().all(axis=None)
    row = method_table(findings, dimensions).set_index("method").loc["LoRA standard"]
    assert row["seeds"] == 0
    assert row[["hours", "megabytes", "mean", "last_loss", "grounded"]].isna().all()
    full = method_table(findings, dimensions).set_index("method").loc["full fine-tuning"]
    assert full["grounded"] == pytest.approx(full["seed_mean"] / 2)
    assert full["grounded_high"] - full["grounded_low"] == pytest.approx((full["seed_high"] - full["seed_low"]) / 2)
    assert row["weights"] == 10_000  # is known from the plan
    shown = readable(method_table(findings, dimensions)).loc["LoRA standard"]
    assert (shown["score"], shown["hours"], shown["over seeds"]) == ("missing", "-", "-")
    runs_found = run_table(findings).set_index("run")
    assert runs_found.loc["lora_standard", "state"] == "not trained"
    assert runs_found.loc["lora_standard", [*NAMES, "mean", "hours"]].isna().all()


def test_a_methods_score_is_the_mean_of_its_seeds(findings: Findings) -> None:
    means = dimension_table(findings).set_index(["method", "dimension"])
    assert means.loc[("LoRA light", "mean"), "mean"] == pytest.approx(15 + 1.5 + 1)
    assert means.loc[("LoRA light", "Spatial"), "seeds"] == 2
    low, high = student_interval([12.5, 22.5])
    assert means.loc[("LoRA light", "mean"), ["seed_low", "seed_high"]].tolist() == pytest.approx([low, high])
    assert means.loc[("LoRA light", "mean"), "low"] < 17.5 < means.loc[("LoRA light", "mean"), "high"]
    assert not math.isnan(means.loc[("LoRA light", "mean"), "task_low"])
    assert math.isnan(means.loc[("LoRA light", "Spatial"), "task_low"])  # tasks: of all dimensions together only
    assert math.isnan(means.loc[(BASE, "mean"), "seed_low"])


def test_gains_are_of_runs_and_corrected_over_the_presets(findings: Findings) -> None:
    """Two seeds of full fine-tuning and of LoRA light; LoRA full has one, and so no p."""
    other = scores()
    other = other[other["model"] == "Baseline"].assign(model="lora_full-checkpoint-2")
    other.loc[other["example"] == "0", "total_score"] += 60
    findings.outcomes.append(outcome("lora_full-checkpoint-2", "lora_full", 42))
    table = pd.concat([findings.scores, other])
    found = gain_table(Findings(findings.outcomes, table, dimension_means(table), "Baseline", "complete"))
    assert list(found["baseline"].unique()) == ["LoRA light", "LoRA full"]
    mean = found[found["dimension"] == "mean"].set_index("baseline")
    assert mean.loc["LoRA light", "difference"] == pytest.approx(40.5 - 15)
    welch = stats.ttest_ind([40, 41], [10, 20], equal_var=False)
    assert mean.loc["LoRA light", ["p", "p_holm"]].tolist() == pytest.approx([welch.pvalue] * 2)
    bounds = mean.loc["LoRA light", ["seed_low", "seed_high"]].tolist()
    assert bounds == pytest.approx(list(welch.confidence_interval()))
    assert mean.loc["LoRA full", ["p", "p_holm", "seed_low"]].isna().all()
    assert not mean["significant"].any()  # two runs a method, ten points apart within one, say little
    rest = found[found["dimension"] != "mean"]
    assert rest["p_holm"].tolist() == pytest.approx(holm(rest["p"]).tolist(), nan_ok=True)


def test_without_full_finetuning_there_are_no_gains(findings: Findings) -> None:
    only = [one for one in findings.outcomes if one.method != label(FULL)]
    assert gain_table(Findings(only, findings.scores, findings.means, "Baseline", "complete")).empty


def test_the_report_is_written_with_what_is_there(
    findings: Findings, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "DPI", 30)  # small images are drawn faster
    values = {"max_steps": 2, "max_train_samples": 8, "warmup_steps": 0, "model_name_or_path": "models/tiny"}
    made = make_runs(scripts(True), ["light", "standard"], True, 1, values, "reported")
    planned = plan_runs(made, workspace, workspace / ".cache")
    written = {path.name for path in write_report(findings, planned, tmp_path)}
    assert written == {path.name for path in tmp_path.iterdir()}
    for name in ("score_by_cost", "score_by_dimension", "losses", "full_gain"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width >= 300
        assert f"({name}.png)" in (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.md").read_text()
    assert "- lora_standard-checkpoint-2: not trained" in page
    assert "| LoRA standard | 10,000 |" in page
    assert "over seeds: Student" in page


def test_a_report_of_nothing_says_so(findings: Findings) -> None:
    one = outcome("lora_light-checkpoint-2", "lora_light", 42, "not trained")
    nothing = Findings([one], findings.scores.iloc[:0], findings.means.iloc[:0], "Baseline", "not evaluated")
    dimensions = dimension_table(nothing)
    assert nothing.missing == ["lora_light-checkpoint-2: not trained", f"{BASE}: not evaluated"]
    assert readable(method_table(nothing, dimensions))["score"].tolist() == ["missing", "missing"]
    assert gain_table(nothing).empty
    score_by_cost(nothing, dimensions).draw_without_rendering()


def test_results_of_another_model_are_left_out(workspace: Path, model: Path, tmp_path: Path) -> None:
    """Of a model that had the same name: the evaluation refuses to mix them, and the report must not show them."""
    values = {"max_steps": 2, "max_train_samples": 8, "warmup_steps": 0, "model_name_or_path": "models/tiny"}
    planned = plan_runs(make_runs(scripts(True), ["light"], False, 1, values, "left_out"), workspace,
                        workspace / ".cache")  # fmt: skip
    weights, files = weights_hash(model), small_files(model)
    for of_model, state in (
        ({"weights": "0" * 64}, "not evaluated"),
        ({"weights": weights}, "complete"),
        ({"weights": weights, "files": {**files, "chat_template.jinja": "0" * 64}}, "not evaluated"),
        ({"weights": weights, "files": files}, "complete"),
    ):
        for name in NAMES:
            folder = tmp_path / name / "Baseline"
            folder.mkdir(parents=True, exist_ok=True)
            counts = {"examples": 1, "scored": 1}
            (folder / "manifest.json").write_text(json.dumps({"model": of_model, "counts": counts}))
            (folder / "final_score.json").write_text(json.dumps({"task": {"0": {"total_score": 40.0}}}))
        places = Places(workspace / "output", tmp_path, model, ImageSize(4, 4))
        found = collect(planned, places)
        assert found.base_state == state
        assert math.isnan(found.mean("Baseline")) == (state == "not evaluated")


# --- the whole experiment

SMALL = (
    "--demo --presets light --name t --gpus none --max_steps 4 --save_steps 2 --warmup_steps 1 --max_train_samples 8 "
    "--report_to none --model_name_or_path models/tiny "
    "-- --num_episodes 1 --max_new_tokens 8 --image_tokens_min 4 --image_tokens_max 4"
).split()


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def touched(root: Path, *patterns: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in root.glob(pattern)}


@pytest.mark.slow
def test_an_ablation_goes_on_from_wherever_it_was_stopped(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ablation"
    for name in ("dataset", "data", "models"):
        shutil.copytree(workspace / name, root / name)
    shutil.copy(workspace / "workspace.json", root)
    light, full = root / "output" / "t_lora_light", root / "output" / f"t_{FULL}"

    # Killed while it trains: its job ends too, and what is saved stays.
    environment = {**os.environ, "LEAP_ROOT": str(root)}
    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / ABLATION), *SMALL], env=environment, stdout=subprocess.DEVNULL
    ) as process:
        wait_for((light / "checkpoint-2" / "leap_run.json").is_file)
        jobs = descendants(process.pid)
        process.kill()
    wait_for(lambda: not any(alive(job) for job, _ in jobs))
    shutil.rmtree(light / "checkpoint-4", ignore_errors=True)  # where the job was faster than the kill

    # A run that fails stops no other, but makes the end one.
    with FolderLock(full), monkeypatch.context() as patch:  # as if another process trained there
        patch.setattr(stages, "_SAVING", 1.0)  # the time that a job waits for the one before it: this one never ends
        failed = run_script(ABLATION, *SMALL, root=root)
    assert failed.returncode == 1
    assert re.search("continues checkpoint-[23]", failed.stdout)  # it had its time to save another
    assert f"MISSING t_{FULL}-checkpoint-4: not trained" in failed.stdout
    report = root / "eva_results" / "ablation_t"
    assert "| full fine-tuning |" in (report / "report.md").read_text()
    methods = pd.read_csv(report / "methods.csv").set_index("method")
    assert methods["mean"].isna().to_dict() == {BASE: False, "LoRA light": False, "full fine-tuning": True}

    # The same command does what is left, and that only; a manifest names the evaluation's command, of more models now.
    finished = "output/t_lora_light/**/*", "eva_results/*/t_lora_light-*/[!m]*", "logs/training_t_lora_light*"
    before = touched(root, *finished)
    done = run_script(ABLATION, *SMALL, root=root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 2 runs are trained already" in done.stdout
    assert touched(root, *finished) == before
    again = run_script(ABLATION, *SMALL, root=root)
    assert again.returncode == 0
    assert "2 of 2 runs are trained already" in again.stdout

    # Of other data, answers are worth nothing: the evaluations say so, and the end is a failure.
    image = min((root / "dataset").rglob("input/*.png"))  # of an example that is asked
    kept = image.read_bytes()
    Image.new("RGB", Image.open(image).size).save(image)
    changed = run_script(ABLATION, *SMALL, root=root)
    assert changed.returncode == 1
    assert "are to other data than" in changed.stdout + changed.stderr
    image.write_bytes(kept)
    assert not pd.read_csv(report / "methods.csv")["mean"].isna().any()

    # Merged into its base, the adapter gives the same answers.
    checkpoint = light / "checkpoint-4"
    export = f"--checkpoint {checkpoint} --output {root}/models/merged --dtype float32"
    assert run_script("scripts/training/export_model.py", *export.split(), root=root).returncode == 0
    options = SMALL[SMALL.index("--") + 1 :]
    merged = run_script(
        "scripts/evaluation/run_vlm_evaluation.py", "--checkpoint", "models/merged", *options, root=root
    )
    assert merged.returncode == 0, merged.stderr
    answers = [
        [json.loads(line)["text"] for path in sorted((root / "eva_results").glob(f"*/{name}/predictions.jsonl"))
         for line in path.read_text().splitlines()]
        for name in ("merged", "t_lora_light-checkpoint-4", "tiny")
    ]  # fmt: skip
    assert answers[0] == answers[1] != answers[2]
    assert len(answers[0]) == 6
