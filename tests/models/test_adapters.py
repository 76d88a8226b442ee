"""A LoRA adapter is evaluated on its base, as the merged model would be, and never without its weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Finished, run_script
from safetensors.torch import load_file, save_file
from test_families import one_thread

from leap.errors import LeapError
from leap.models.checkpoints import ADAPTER, weights_hash
from leap.models.loading import load_model, load_processor

EVALUATE = "scripts/evaluation/run_vlm_evaluation.py"
SMALL = "--dimension semantic --image_tokens_min 4 --image_tokens_max 4 --max_new_tokens 6".split()
RUN = "lora_tiny"
__all__ = ["one_thread"]  # a fixture that every test here uses


@pytest.fixture(scope="module")
def made(workspace: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with base, adapter and merged model."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("adapters")
    shutil.copytree(workspace / "dataset", root / "dataset")
    base = Path(shutil.copytree(model, root / "models" / "base"))
    torch.manual_seed(1)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(load_model(base, "float32"), settings)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    adapted.save_pretrained(root / "output" / RUN / "checkpoint-20")
    merged = root / "models" / "merged"
    adapted.merge_and_unload().save_pretrained(merged)
    load_processor(base).save_pretrained(merged)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy whose adapter names the copy's base."""
    root = Path(shutil.copytree(made, tmp_path / "workspace"))
    name_base(root, str(root / "models" / "base"))
    return root


def adapter(root: Path) -> Path:
    return root / "output" / RUN / "checkpoint-20"


def name_base(root: Path, base: str | None) -> None:
    change(adapter(root) / ADAPTER, base_model_name_or_path=base)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def evaluate(root: Path, *arguments: str) -> Finished:
    return run_script(EVALUATE, *SMALL, *arguments, root=root)


def texts(root: Path, *arguments: str, name: str) -> list[str]:
    done = evaluate(root, *arguments)
    assert done.returncode == 0, done.stderr
    lines = (root / "eva_results" / "Semantic" / name / "predictions.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert all(answer["text"] for answer in answers)
    return [answer["text"] for answer in answers]


def test_an_adapter_answers_as_its_merged_model(root: Path) -> None:
    plain = texts(root, "--checkpoint", "models/base", name="base")
    merged = texts(root, "--checkpoint", "models/merged", name="merged")
    name = f"{RUN}-checkpoint-20"
    assert merged != plain
    assert texts(root, "--checkpoint", str(adapter(root)), name=name) == merged
    flags = ["--base_model_path", "models/base", "--lora_adapter_path", str(adapter(root)), "--model_name", "flags"]
    assert texts(root, *flags, name="flags") == merged


def test_an_adapter_on_a_quantized_base(root: Path) -> None:
    pytest.importorskip("bitsandbytes")
    plain = texts(root, "--checkpoint", "models/base", "--quantization", "4bit", name="base_4bit")
    adapted = texts(
        root, "--checkpoint", str(adapter(root)), "--quantization", "4bit", name=f"{RUN}-checkpoint-20_4bit"
    )
    assert adapted != plain


@pytest.mark.parametrize(
    "whose", ["models/base/chat_template.jinja", f"output/{RUN}/checkpoint-20/tokenizer_config.json"]
)
def test_an_adapter_is_its_own_small_files_and_its_bases(root: Path, whose: str) -> None:
    assert evaluate(root, "--checkpoint", str(adapter(root))).returncode == 0
    path = root / whose
    path.write_text((path.read_text() if path.is_file() else "{}") + "\n")
    refused = evaluate(root, "--checkpoint", str(adapter(root)))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert f"{'base/' * whose.startswith('models')}{path.name} of the model has changed" in line


def test_a_moved_base_is_reported_and_given(root: Path) -> None:
    (root / "models" / "base").rename(root / "models" / "moved")
    refused = evaluate(root, "--checkpoint", str(adapter(root)))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert str(root / "models" / "base") in line
    assert "--base_model_path" in line
    done = evaluate(root, "--checkpoint", str(adapter(root)), "--base_model_path", "models/moved")
    assert done.returncode == 0, done.stderr


def test_a_relative_base_lies_in_the_workspace(root: Path) -> None:
    name_base(root, "models/base")
    assert evaluate(root, "--checkpoint", str(adapter(root))).returncode == 0
    for unknown in ("models/elsewhere", None):
        name_base(root, unknown)
        refused = evaluate(root, "--checkpoint", str(adapter(root)))
        assert refused.returncode == 1
        assert f"an adapter on {unknown and root / unknown}, which is no model folder" in refused.stderr


def test_a_batch_takes_adapters_too(root: Path) -> None:
    options = ["--batch_mode", "--skip_baseline", "--checkpoints_dir", f"output/{RUN}"]
    done = evaluate(root, *options)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (root / "eva_results" / "Semantic").iterdir()] == [f"{RUN}-checkpoint-20"]


def test_base_and_settings_are_part_of_the_weights(root: Path) -> None:
    base, folder = root / "models" / "base", adapter(root)
    first = weights_hash(folder, base)
    assert weights_hash(folder, base) == first
    change(folder / ADAPTER, lora_alpha=16)
    changed = weights_hash(folder, base)
    spoil(base / "model.safetensors", lambda name, weight: weight + 1)
    assert len({first, changed, weights_hash(folder, base)}) == 3


def spoil(path: Path, change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> None:
    changed = {name: change(name, weight) for name, weight in load_file(path).items()}
    save_file({name: weight.contiguous() for name, weight in changed.items() if weight is not None}, path)


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda name, weight: None if "layers.1" in name else weight,  # missing: the base alone would answer there
        lambda name, weight: weight[:, :-1] if weight.ndim == 2 else weight,
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    root: Path, spoiled: Callable[[str, torch.Tensor], torch.Tensor | None]
) -> None:
    spoil(adapter(root) / "adapter_model.safetensors", spoiled)
    refused = evaluate(root, "--checkpoint", str(adapter(root)))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "does not fit its base" in line


def test_an_adapter_of_a_deeper_model_is_refused(root: Path) -> None:
    path = adapter(root) / "adapter_model.safetensors"
    weights = load_file(path)
    deeper = {name.replace("layers.1", "layers.2"): weight.clone() for name, weight in weights.items()}
    weights |= {name: weight for name, weight in deeper.items() if "layers.2" in name}
    save_file(weights, path)
    with pytest.raises(LeapError, match="does not fit its base"):
        load_model(adapter(root), "float32", base=root / "models" / "base")


def test_another_kind_of_adapter_is_refused(root: Path) -> None:
    change(adapter(root) / ADAPTER, peft_type="PROMPT_TUNING")
    refused = evaluate(root, "--checkpoint", str(adapter(root)))
    assert refused.returncode == 1
    assert "only LoRA is supported" in refused.stderr


@pytest.mark.parametrize("flag", ["--lora_adapter_path", "--base_model_path models/base --checkpoint"])
def test_flags_of_an_adapter_are_for_an_adapter(root: Path, flag: str) -> None:
    refused = evaluate(root, *flag.split(), "models/merged")
    assert refused.returncode == 2
    assert "no LoRA adapter" in refused.stderr


def test_one_plan_of_an_adapter(root: Path) -> None:
    image = next((root / "dataset").glob("*/Semantic/*/example0/input/*.png"))
    words = f"--checkpoint {adapter(root)} --image {image} --max_new_tokens 2".split()
    sizes = "--image_tokens_min 4 --image_tokens_max 4 --instruction Look.".split()
    done = run_script("scripts/evaluation/plan_one.py", *words, *sizes, root=root)
    assert "no plan that the benchmark would accept" in done.stdout, done.stderr
