"""Models that need more than their files: bitsandbytes for quantized weights, or code of their own."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_script
from test_families import one_thread

from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.inference.hf import HfEngine
from leap.models.loading import Quantization, load_model

EVALUATE = "scripts/evaluation/run_vlm_evaluation.py"
SMALL = "--dimension semantic --image_tokens_min 4 --image_tokens_max 4 --max_new_tokens 4".split()
__all__ = ["one_thread"]  # a fixture that every test here uses


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantized_evaluation(workspace: Path, bits: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options = ["--checkpoint", "models/tiny", "--quantization", bits, "--output_dir", str(tmp_path)]
    done = run_script(EVALUATE, *SMALL, *options, root=workspace)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) < 5
    (folder,) = (tmp_path / "Semantic").iterdir()
    assert folder.name == f"tiny_{bits}"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"]["quantization"] == bits
    assert manifest["counts"]["inference_error"] == 0


@pytest.mark.parametrize(("bits", "share"), [("4bit", 0.25), ("8bit", 0.35)])
def test_quantized_weights_are_smaller_and_close(model: Path, bits: Quantization, share: float) -> None:
    pytest.importorskip("bitsandbytes")

    def layer(quantization: Quantization | None) -> torch.nn.Module:
        return load_model(model, "float32", quantization=quantization).model.language_model.layers[0].mlp.up_proj

    plain, quantized = layer(None), layer(bits)
    asked = torch.randn(5, plain.in_features)
    with torch.inference_mode():
        expected, found = plain(asked), quantized(asked)
    assert quantized.weight.nbytes < share * plain.weight.nbytes
    assert 0 < (found - expected).norm() / expected.norm() < 0.2


def test_without_bitsandbytes_nothing_is_loaded_unquantized(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    options = ["--checkpoint", "models/tiny", "--quantization", "4bit", "--output_dir", str(tmp_path)]
    refused = run_script(EVALUATE, *SMALL, *options, root=workspace)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert '".[quantization]"' in line


MARK = """\
from pathlib import Path
Path({marker!r}).touch()
"""
CONFIGURATION = """\
from transformers import Qwen3VLConfig

class OwnConfig(Qwen3VLConfig):
    model_type = "own_vl"
"""
MODELING = """\
from transformers import Qwen3VLForConditionalGeneration
from .configuration_own import OwnConfig

class OwnModel(Qwen3VLForConditionalGeneration):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model with code in its folder, and the file that this code leaves when it runs."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, marker = Path(shutil.copytree(model, tmp_path / "own")), tmp_path / "code_ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own_vl",
        "architectures": ["OwnModel"],
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForImageTextToText": "modeling_own.OwnModel",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_own.py").write_text(f"{MARK.format(marker=str(marker))}{CONFIGURATION}")
    (folder / "modeling_own.py").write_text(f"{MARK.format(marker=str(marker))}{MODELING}")
    return folder, marker


def test_a_models_own_code_runs_only_where_it_is_trusted(
    own_code: tuple[Path, Path], workspace: Path, tmp_path: Path
) -> None:
    folder, marker = own_code
    options = ["--checkpoint", str(folder), "--output_dir", str(tmp_path / "results")]
    refused = run_script(EVALUATE, *SMALL, *options, root=workspace)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert str(folder) in line
    assert "--trust_remote_code" in line
    assert not marker.exists()
    done = run_script(EVALUATE, *SMALL, *options, "--trust_remote_code", root=workspace)
    assert done.returncode == 0, done.stderr
    (warning,) = (line for line in done.stderr.splitlines() if line.startswith("warning: "))
    assert f"code that lies in {folder} will run" in warning
    assert marker.exists()


def test_a_processors_own_code_is_not_run_either(own_code: tuple[Path, Path]) -> None:
    folder, marker = own_code
    path = folder / "processor_config.json"
    own = {"processor_class": "OwnProcessor", "auto_map": {"AutoProcessor": "modeling_own.OwnProcessor"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    with pytest.raises(LeapError, match="--trust_remote_code"):
        HfEngine(folder, ImageSize(4, 4))
    assert not marker.exists()
