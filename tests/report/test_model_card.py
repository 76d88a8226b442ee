"""An export's card: metadata that the hub reads, scores from the evaluation's files, code and commands that run."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import run_script
from huggingface_hub import ModelCard
from PIL import Image
from test_families import one_thread
from test_recipes import LORA, train

from leap.data.image import ImageSize
from leap.evaluation.requests import build_request
from leap.evaluation.settings import EvaluationSettings
from leap.inference.hf import HfEngine
from leap.inference.protocol import Decoding
from leap.inference.vllm_server import VllmSettings, _image_pixels, build_command
from leap.models.checkpoints import MARKER, adapter_base
from leap.report.model_card import Export, model_card
from leap.training.recipe import read_recipe
from leap.vlabench.prompts import leap_instructions

EXPORT, EVALUATE = "scripts/training/export_model.py", "scripts/evaluation/run_vlm_evaluation.py"
QUICK = "--num_episodes 2 --max_new_tokens 6 --device cpu --prompt leap --scorer leap".split()
__all__ = ["one_thread"]  # a fixture that every test here uses


@pytest.fixture(scope="module")
def root(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of its own with an adapter, evaluated with its own and with blank images, as its base was."""
    root = tmp_path_factory.mktemp("cards")
    for name in ("data", "dataset"):
        (root / name).symlink_to(workspace / name)
    shutil.copytree(workspace / "models" / "tiny", root / "models" / "tiny")
    card = "---\nlicense: apache-2.0\n---\n# tiny\n"
    (root / "models" / "tiny" / "README.md").write_text(card)
    train(root, "carded", learning_rate=0.05, max_steps=3, save_steps=3, **LORA)
    checkpoint = "output/carded/checkpoint-3"
    for flags in ([], ["--image_control", "blank"]):
        assert run_script(EVALUATE, "--checkpoint", checkpoint, *flags, *QUICK, root=root).returncode == 0
    size = ["--image_tokens_min", "4", "--image_tokens_max", "9"]
    assert run_script(EVALUATE, "--checkpoint", "models/tiny", *size, *QUICK, root=root).returncode == 0
    return root


@pytest.fixture(scope="module")
def exported(root: Path) -> tuple[Path, str]:
    """The exported adapter, merged, and what the script said."""
    output = root / "models" / "merged"
    flags = ["--checkpoint", "output/carded/checkpoint-3", "--output", str(output), "--dtype", "float32"]
    done = run_script(EXPORT, *flags, root=root)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_the_metadata_is_what_the_hub_reads(root: Path, exported: tuple[Path, str]) -> None:
    data = card_of(exported[0]).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-text-to-text", "apache-2.0")
    assert {"leap", "robotics", "qwen3_vl", "lora"} <= set(data.tags)
    assert data.base_model is None  # a folder that came from nowhere
    scores = {
        (result.dataset_config, result.metric_type): (result.metric_value, result.metric_args)
        for result in data.eval_results
    }
    summary = run_summary(root)
    for row in [row for row in summary["means"] if row["model"] == "carded-checkpoint-3" and row["mean"] is not None]:
        value, about = scores[row["dimension"], "total_score"]
        assert value == round(row["mean"], 2)
        assert about == {"interval_95": [round(row["low"], 2), round(row["high"], 2)], "examples": row["n"]}
    assert len(scores) == 14  # six dimensions and their mean, official and grounded


def test_a_part_of_the_examples_is_no_score_of_the_benchmark(root: Path, tmp_path: Path) -> None:
    """Neither one example a task, nor all but one that failed."""
    checkpoint, name = root / "output" / "carded" / "checkpoint-3", "carded-checkpoint-3"
    asked = ["--checkpoint", str(checkpoint), *QUICK, "--num_episodes", "1", "--output_dir", str(tmp_path / "one")]
    assert run_script(EVALUATE, *asked, root=root).returncode == 0
    shutil.copytree(root / "eva_results", tmp_path / "failed")
    manifest = tmp_path / "failed" / "Spatial" / name / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"scored": 2', '"scored": 1'))
    cards = {}
    for results in ("one", "failed"):
        base, size = root / "models" / "tiny", ImageSize(4, 9)
        export = Export(checkpoint, base, "x", tmp_path / "x", "float32", size, root, tmp_path / results)
        cards[results] = ModelCard(model_card(export))
    assert cards["one"].data.eval_results is None
    assert f"- {name}: not known to have a score of every example: no benchmark score." in cards["one"].text
    found = {(result.dataset_config, result.metric_type) for result in cards["failed"].data.eval_results}
    assert len(found) == 10
    assert not {dimension for dimension, _ in found} & {"Spatial", "mean"}
    assert f"- {name}: not known to have a score of every example in Spatial: no benchmark" in cards["failed"].text


def run_summary(root: Path) -> dict[str, Any]:
    from leap.report.results_summary import write_summary

    write_summary(root / "eva_results")
    found: dict[str, Any] = json.loads((root / "eva_results" / "summary.json").read_text())
    return found


def test_the_text_has_scores_controls_and_what_never_looks(exported: tuple[Path, str]) -> None:
    text = card_of(exported[0]).text
    table = text.partition("## Scores")[2].partition("## Training")[0]
    for row in ("carded-checkpoint-3", "carded-checkpoint-3_blank", "tiny", "floor", "best blind"):
        assert table.count(f"\n| {row} |") == 2  # the official score, and grounded
    assert "asked with blank images" in table
    assert "tiny: the base model" in table
    assert "LoRA of rank 4 on q_proj, k_proj, v_proj, o_proj of the llm" in text
    assert "images: 4 to 9 tokens" in text


def test_its_recipe_is_one(exported: tuple[Path, str], tmp_path: Path) -> None:
    recipe = re.search(r"```yaml\n(.*?)```", card_of(exported[0]).text, re.DOTALL)
    assert recipe
    (tmp_path / "recipe.yaml").write_text(recipe[1])
    again = read_recipe(tmp_path / "recipe.yaml")
    assert (again.finetuning, again.lora_r, again.max_steps, again.learning_rate) == ("lora", 4, 3, 0.05)


def test_its_code_answers_as_leap_does(
    root: Path, exported: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    images = (tmp_path / "scene.png", tmp_path / "scene_numbered.png")
    for path, colour in zip(images, ("teal", "maroon"), strict=True):
        Image.new("RGB", (128, 96), colour).save(path)
    code = re.search(r"(`{3,})python\n(.*?)\1\n", card_of(exported[0]).text, re.DOTALL)
    assert code
    monkeypatch.chdir(tmp_path)
    (tmp_path / "merged").symlink_to(exported[0])
    exec(code[2].replace("max_new_tokens=512", "max_new_tokens=12"), {})
    settings = EvaluationSettings(root / "dataset", leap_instructions(), ImageSize(4, 9), Decoding(12))
    request = build_request(("", "0"), "Put the pear into the basket.", images, settings)
    (answer,) = HfEngine(exported[0], ImageSize(4, 9), workers=0).responses([request], settings.decoding)
    assert answer.text
    assert capsys.readouterr().out.strip() == answer.text.strip()


def test_it_is_served_with_the_limits_of_leaps_own_server(root: Path, exported: tuple[Path, str]) -> None:
    output, said = exported
    lines = dict(re.findall(r"^(serve|unmerged): +(.*)$", said, re.MULTILINE))
    adapter, base = root / "output" / "carded" / "checkpoint-3", root / "models" / "tiny"
    for line, model, lora in ((lines["serve"], output, None), (lines["unmerged"], base, adapter)):
        words = shlex.split(line)
        assert words[:3] == ["vllm", "serve", str(model)]
        settings = VllmSettings(base, ImageSize(4, 9), dtype="float32", lora=lora)
        own = build_command("python", settings, 1, _image_pixels(settings), 2)
        assert set(words[3:]) <= set(own)
    assert f"leap={adapter}" in lines["unmerged"]
    assert "vllm serve merged --dtype float32 --max-model-len" in card_of(output).text


def test_the_same_command_renews_the_card_alone(root: Path, exported: tuple[Path, str]) -> None:
    output, _ = exported
    flags = ["--checkpoint", "output/carded/checkpoint-3", "--output", str(output), "--dtype", "float32"]
    weights = (output / "model.safetensors").stat().st_mtime_ns
    done = run_script(EXPORT, *flags, "--results", str(root / "none"), "--license", "mit", root=root)
    assert done.returncode == 0, done.stderr
    assert (output / "model.safetensors").stat().st_mtime_ns == weights
    assert card_of(output).data.license == "mit"
    assert "Not evaluated" in card_of(output).text
    assert run_script(EXPORT, *flags, root=root).returncode == 0
    assert card_of(output).data.eval_results
    (output / "README.md").write_text("mine")
    done = run_script(EXPORT, *flags, root=root)
    assert "it was changed by hand, and stays" in done.stdout
    assert (output / "README.md").read_text() == "mine"
    refused = run_script(EXPORT, *flags[:-1], "bfloat16", root=root)
    assert refused.returncode == 1
    assert "not this very export" in refused.stderr


def test_the_base_is_named_as_the_hub_has_it(root: Path, tmp_path: Path) -> None:
    """By what the run noted, and so is its data set."""
    adapter = Path(shutil.copytree(root / "output" / "carded" / "checkpoint-3", tmp_path / "checkpoint-3"))
    marker = json.loads((adapter / MARKER).read_text())
    marker["base_hub"] = {"repository": "someone/tiny", "commit": "0" * 40, "subfolder": None}
    marker["recipe"]["train_file"] = "someone/samples"
    (adapter / MARKER).write_text(json.dumps(marker))
    output = tmp_path / "merged"
    done = run_script(EXPORT, "--checkpoint", str(adapter), "--output", str(output), root=root)
    assert done.returncode == 0, done.stderr
    data = card_of(output).data
    assert (data.base_model, data.base_model_relation, data.datasets) == (
        "someone/tiny",
        "finetune",
        ["someone/samples"],
    )
    assert adapter_base(adapter, root) == root / "models" / "tiny"
