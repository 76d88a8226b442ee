"""The image size that a model was trained with goes with it, into evaluation and exports; comparisons name others."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families import one_thread
from test_recipes import LORA, train

from leap.ablation.stages import Places
from leap.data.image import ImageSize
from leap.errors import LeapError, UsageError
from leap.evaluation.model_names import size_suffix
from leap.models.checkpoints import MARKER
from leap.models.image_size import choose_size, recorded_size

EVALUATE, BLIND = "scripts/evaluation/run_vlm_evaluation.py", "scripts/evaluation/run_vlm_output.py"
EXPORT, PLAN = "scripts/training/export_model.py", "scripts/evaluation/plan_one.py"
DRAW = "scripts/evaluation/draw_evaluation_results.py"
PARALLEL, COMPARE = "scripts/evaluation/run_parallel_evaluation.py", "scripts/evaluation/compare_models.py"
DEFAULT, OWN, OTHER = [256, 1024], [4, 9], [16, 20]
QUICK = "--dimension spatial --num_episodes 1 --max_new_tokens 2 --device cpu --prompt leap --scorer leap".split()
__all__ = ["one_thread"]  # a fixture that every test here uses


def without_record(folder: Path) -> Path:
    """As a base model is, or the checkpoint of an older LEAP."""
    place = folder / "processor_config.json"
    content = json.loads(place.read_text())
    for name in ("image_tokens_min", "image_tokens_max"):
        del content["image_processor"][name]
    place.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def root(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a base model that records no size, and checkpoints of three runs that start from it."""
    root = tmp_path_factory.mktemp("sizes")
    for name in ("data", "dataset"):
        (root / name).symlink_to(workspace / name)
    shutil.copytree(workspace / "models" / "tiny", root / "models" / "base")
    without_record(root / "models" / "base")
    base = {"model_name_or_path": "models/base", "max_steps": 1, "save_steps": 1}
    train(root, "own", **base)
    train(root, "lora", **base, **LORA)
    train(root, "other", **base, image_tokens_min=OTHER[0], image_tokens_max=OTHER[1])
    return root


def script(name: str, *flags: str, root: Path) -> Finished:
    done = run_script(name, *flags, root=root)
    assert "Traceback" not in done.stderr
    return done


def evaluate(root: Path, results: Path, *flags: str) -> Finished:
    return script(EVALUATE, *QUICK, "--baseline_model", "models/base", "--output_dir", str(results), *flags, root=root)


def sizes(results: Path) -> dict[str, list[int]]:
    """By the name of the results."""
    return {
        path.parent.name: json.loads(path.read_text())["settings"]["image_tokens"]
        for path in results.glob("Spatial/*/manifest.json")
    }


def checkpoint(root: Path, run: str) -> Path:
    return root / "output" / run / "checkpoint-1"


# --- the record


@pytest.mark.parametrize("run", ["own", "lora"])
def test_a_checkpoint_carries_its_size_wherever_it_goes(root: Path, tmp_path: Path, run: str) -> None:
    folder, size = checkpoint(root, run), ImageSize(*OWN)
    assert recorded_size(folder, root) == size
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    (copied / MARKER).unlink()
    assert recorded_size(copied, root) == size
    older = without_record(Path(shutil.copytree(folder, tmp_path / "older")))
    assert recorded_size(older, root) == size
    for source in (copied, older):
        output = tmp_path / f"exported-{source.name}"
        done = script(EXPORT, *f"--checkpoint {source} --output {output} --dtype float32".split(), root=root)
        assert done.returncode == 0, done.stderr
        assert recorded_size(output, root) == size


def test_other_programs_see_the_size_too(root: Path) -> None:
    """transformers itself scales by the saved processor."""
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint(root, "own"), local_files_only=True).image_processor
    grid = processor(images=[Image.new("RGB", (960, 960))], return_tensors="pt")["image_grid_thw"]
    assert int(grid.prod()) // processor.merge_size**2 == OWN[1]


def test_a_run_records_its_own_size_and_not_its_base_models(root: Path) -> None:
    base = {"model_name_or_path": "output/other/checkpoint-1", "max_steps": 1, "save_steps": 1}
    assert recorded_size(train(root, "from_other", **base), root) == ImageSize(*OWN)


def test_base_models_record_nothing(root: Path, tmp_path: Path) -> None:
    assert recorded_size(root / "models" / "base", root) is None
    assert recorded_size(tmp_path / "nothing", root) is None


def test_an_adapter_that_says_nothing_is_asked_as_its_base(root: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(checkpoint(root, "lora") / name, bare)
    assert recorded_size(bare, root) is None
    assert recorded_size(bare, root, checkpoint(root, "own")) == ImageSize(*OWN)


@pytest.mark.parametrize(
    "values", [{"image_tokens_min": "many", "image_tokens_max": 9}, {"image_tokens_min": 4},
               {"image_tokens_min": 9, "image_tokens_max": 4}, {"image_tokens_min": -1, "image_tokens_max": 4},
               {"image_tokens_min": 4, "image_tokens_max": 10**12}]
)  # fmt: skip
def test_a_broken_record_is_refused_with_its_file(tmp_path: Path, values: dict[str, Any]) -> None:
    place = tmp_path / "processor_config.json"
    place.write_text(json.dumps({"image_processor": values}))
    with pytest.raises(LeapError, match="image") as refused:
        recorded_size(tmp_path, tmp_path)
    assert str(refused.value).startswith(f"{place}: ")


# --- the choice

LOW, HIGH = st.integers(1, 9), st.integers(10, 19)
SIZES = st.none() | st.tuples(LOW, HIGH)


@settings(max_examples=100)
@given(st.lists(SIZES, max_size=4), SIZES, st.booleans(), st.none() | LOW, st.none() | HIGH)
def test_all_models_of_a_command_have_one_size(
    tmp_path_factory: pytest.TempPathFactory,
    trained: list[tuple[int, int] | None],
    baselines: tuple[int, int] | None,
    with_baseline: bool,
    low: int | None,
    high: int | None,
) -> None:
    place = tmp_path_factory.mktemp("models")
    folders = []
    for number, size in enumerate([baselines, *trained]):
        folders.append(place / str(number))
        record = dict(zip(("image_tokens_min", "image_tokens_max"), size, strict=True)) if size else {}
        folders[-1].mkdir()
        (folders[-1] / "processor_config.json").write_text(json.dumps({"image_processor": record}))
    models = folders if with_baseline else folders[1:]
    given_flags = argparse.Namespace(image_tokens_min=low, image_tokens_max=high)
    chosen = lambda: choose_size(given_flags, ImageSize(256, 1024), models, folders[0]).tokens  # noqa: E731
    recorded = {size for size in trained if size} or {size for size in [baselines] if size and with_baseline}
    if low and high:
        expected = (low, high)
    elif len(recorded) > 1:
        with pytest.raises(UsageError, match="--image_tokens_min and --image_tokens_max"):
            chosen()
        return
    else:
        least, most = next(iter(recorded), (256, 1024))
        expected = (low or least, high or most)
        if expected[0] > expected[1]:
            with pytest.raises(UsageError, match="must not be over"):
                chosen()
            return
    assert chosen() == ImageSize(*expected)


# --- scripts


def test_a_checkpoint_is_evaluated_as_it_was_trained(root: Path, tmp_path: Path) -> None:
    folder = checkpoint(root, "own")
    done = evaluate(root, tmp_path, "--checkpoint", str(folder))
    assert done.returncode == 0, done.stderr
    assert f"image size: 4 to 9 tokens (as {folder} was trained)" in done.stdout
    assert sizes(tmp_path) == {"own-checkpoint-1": OWN}
    manifest = json.loads((tmp_path / "Spatial" / "own-checkpoint-1" / "manifest.json").read_text())
    assert manifest["image_size_source"] == f"as {folder} was trained"
    again = evaluate(root, tmp_path, "--checkpoint", str(folder), *"--image_tokens_min 4 --image_tokens_max 9".split())
    assert again.returncode == 0, again.stderr
    assert "image size: 4 to 9 tokens (given)" in again.stdout
    assert sizes(tmp_path) == {"own-checkpoint-1": OWN}


@pytest.mark.slow
def test_another_size_goes_to_another_result(root: Path, tmp_path: Path) -> None:
    """The baseline by itself has the default; asked beside checkpoints it has theirs, in a result of its own."""
    alone = evaluate(root, tmp_path)
    assert "image size: 256 to 1024 tokens (default)" in alone.stdout
    before = {path: path.read_bytes() for path in (tmp_path / "Spatial" / "Baseline").glob("*.json*")}
    assert len(before) == 4
    batch = evaluate(root, tmp_path, *"--batch_mode --checkpoints_dir output/own".split())
    assert batch.returncode == 0, batch.stderr
    assert sizes(tmp_path) == {"Baseline": DEFAULT, "Baseline_4-9tokens": OWN, "own-checkpoint-1": OWN}
    assert {path: path.read_bytes() for path in before} == before
    published = "--batch_mode --checkpoints_dir output/own --image_tokens_min 256 --image_tokens_max 1024".split()
    assert evaluate(root, tmp_path, *published, "--image_control", "blank").returncode == 0
    assert evaluate(root, tmp_path, *published).returncode == 0
    there = ("Baseline", "Baseline_blank", "own-checkpoint-1_256-1024tokens", "own-checkpoint-1_256-1024tokens_blank")
    assert {name: size for name, size in sizes(tmp_path).items() if size == DEFAULT} == dict.fromkeys(there, DEFAULT)
    assert len(sizes(tmp_path)) == len(there) + 2
    note = "own-checkpoint-1 (Spatial): image size 4 to 9 against 256 to 1024 tokens"
    compared = script(COMPARE, "own-checkpoint-1", "Baseline", "--results_dir", str(tmp_path), root=root)
    assert note in compared.stdout
    stored = tmp_path / "comparisons" / "own-checkpoint-1_vs_Baseline"
    assert note in json.loads(stored.with_suffix(".json").read_text())["note"]
    assert "image size 4 to 9 against 256 to 1024" in stored.with_suffix(".md").read_text()
    assert note in json.loads((tmp_path / "summary.json").read_text())["unlike"]
    assert "image size 4 to 9 against 256 to 1024" in (tmp_path / "summary.md").read_text()
    flags = f"--results_dir {tmp_path} --output_dir {tmp_path / 'drawn'} --figure metrics --format png".split()
    drawn = script(DRAW, *flags, root=root)
    assert note in drawn.stdout
    assert "image size 4 to 9 against 256 to 1024" in (tmp_path / "drawn" / "scores.md").read_text()
    alike = script(COMPARE, "own-checkpoint-1", "Baseline_4-9tokens", "--results_dir", str(tmp_path), root=root)
    assert "image size" not in alike.stdout


def test_a_name_that_was_given_is_kept_and_nothing_is_mixed_into_it(root: Path, tmp_path: Path) -> None:
    mine = ["--checkpoint", str(checkpoint(root, "own")), "--model_name", "mine"]
    other = "--image_tokens_min 16 --image_tokens_max 20".split()
    assert evaluate(root, tmp_path, *mine, *other).returncode == 0
    refused = evaluate(root, tmp_path, *mine)
    assert refused.returncode == 1
    assert "image_tokens ([16, 20] there, [4, 9] now)" in refused.stderr
    assert sizes(tmp_path) == {"mine": OTHER}


def test_checkpoints_of_two_sizes_are_refused_until_one_is_given(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    folder.mkdir()
    for step, run in enumerate(("own", "other"), start=1):
        (folder / f"checkpoint-{step}").symlink_to(checkpoint(root, run))
    batch = ["--batch_mode", "--checkpoints_dir", str(folder)]
    for name, flags in {
        EVALUATE: [*QUICK, *batch, "--output_dir", str(tmp_path / "results")],
        BLIND: ["--checkpoints_dir", str(folder), "--save_dir", str(tmp_path / "results"), "--device", "cpu"],
    }.items():
        refused = script(name, *flags, "--baseline_model", "models/base", root=root)
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        for message in ("4 to 9 tokens", "16 to 20 tokens", "--image_tokens_min and --image_tokens_max", str(folder)):
            assert message in line
        assert not (tmp_path / "results").exists()
    done = evaluate(root, tmp_path / "results", *batch, *"--image_tokens_min 4 --image_tokens_max 9".split())
    assert done.returncode == 0, done.stderr
    assert set(map(tuple, sizes(tmp_path / "results").values())) == {tuple(OWN)}


def test_models_that_are_named_are_asked_at_one_size_too(root: Path, tmp_path: Path) -> None:
    models = ["--checkpoint", "models/base", "output/own/checkpoint-1", "--baseline_model", "models/base"]
    done = script(PARALLEL, "--gpus", "none", *models, *QUICK, "--output_dir", str(tmp_path), root=root)
    assert done.returncode == 0, done.stderr
    assert sizes(tmp_path) == {"Baseline": OWN, "own-checkpoint-1": OWN}


def test_plans_of_a_blind_review_are_made_at_the_checkpoints_size(root: Path, tmp_path: Path) -> None:
    flags = "--baseline_model models/base --checkpoints_dir output/own --max_new_tokens 2 --max_samples 1 --device cpu"
    done = script(BLIND, *flags.split(), "--save_dir", str(tmp_path), root=root)
    assert done.returncode == 0, done.stderr
    (manifest,) = (json.loads(path.read_text()) for path in tmp_path.glob("blind10_outputs_*.json"))
    assert manifest["settings"]["image_tokens"] == OWN
    assert manifest["image_size_source"] == f"as {checkpoint(root, 'own')} was trained"


def test_one_plan_is_made_at_the_checkpoints_size(root: Path) -> None:
    image = next((root / "dataset").glob("*/Spatial/*/example0/input/input.png"))
    flags = ["--checkpoint", "output/lora/checkpoint-1", "--image", str(image), "--instruction", "Lift it."]
    own = script(PLAN, *flags, "--max_new_tokens", "4", "--device", "cpu", root=root)
    assert "image size: 4 to 9 tokens" in own.stderr
    assert "image size" not in own.stdout


def test_an_ablation_compares_models_that_were_asked_alike(root: Path, tmp_path: Path) -> None:
    """Its base model has results at the default size already; those of the ablation are others."""
    assert evaluate(root, tmp_path).returncode == 0
    own, default = (
        Places(root / "output", tmp_path, root / "models" / "base", ImageSize(*size)) for size in (OWN, DEFAULT)
    )
    folders = [root / "models" / "base", checkpoint(root, "own")]
    assert list(own.named(folders)) == ["Baseline_4-9tokens", "own-checkpoint-1"]
    assert list(default.named(folders)) == ["Baseline", "own-checkpoint-1"]


def test_the_first_size_of_a_model_has_its_plain_name(tmp_path: Path) -> None:
    assert size_suffix("Baseline", ImageSize(1, 2), tmp_path) == ""
    manifest = tmp_path / "M&T" / "Baseline" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    for content, free in (({"settings": {"image_tokens": [1, 2]}}, True), ({}, True),
                          ({"settings": {"image_tokens": [1, 3]}}, False)):  # fmt: skip
        manifest.write_text(json.dumps(content))
        expected = "" if free else "_1-2tokens"
        assert size_suffix("Baseline", ImageSize(1, 2), tmp_path) == expected
        assert size_suffix("Baseline", ImageSize(1, 2), tmp_path, "Baseline_blank") == expected
        assert size_suffix("X", ImageSize(1, 2), tmp_path, "Baseline") == expected
