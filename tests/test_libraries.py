"""What LEAP asks of libraries and devices: releases that work, memory that grows, a bfloat16 that is no emulation."""

import inspect
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, run_script
from packaging.requirements import Requirement
from packaging.version import Version
from test_recipes import tiny_recipe, train, weights

from leap.errors import LeapError
from leap.hardware import ALLOCATOR, SEGMENTS
from leap.inference.vllm_server import _environment
from leap.libraries import OLDEST, refuse_old, refuse_old_libraries
from leap.models.loading import pick_dtype
from leap.models.qwen3_vl import varlen_attention
from leap.models.qwen3_vl.varlen_attention import Segments
from leap.training.trainable_model import check_dtype

FINETUNE = "scripts/training/run-finetuning.py"


def test_pip_is_asked_for_what_the_check_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = {found.name: found.specifier for found in map(Requirement, project["dependencies"])}
    for name, oldest in OLDEST.items():
        assert oldest in {bound.version for bound in asked[name] if bound.operator == ">="}
    for name in ("torch", "transformers"):  # their next major releases break what LEAP calls
        assert not asked[name].contains(f"{Version(OLDEST[name]).major + 1}.0")
    refuse_old_libraries()
    from transformers.integrations.peft import MIN_PEFT_VERSION

    assert Version(OLDEST["peft"]) >= Version(MIN_PEFT_VERSION)  # this release's own wish


@pytest.mark.parametrize("installed", ["2.9.1", "2.10.0", "2.10.0+cu128", "2.10.0a0+b558c986e8.nv25.11"])
def test_an_old_library_is_refused(installed: str) -> None:
    with pytest.raises(LeapError, match=r"torch 2\.\S+ is installed, and LEAP needs 2.11 or newer: pip install"):
        refuse_old("torch", installed, "2.11")


@pytest.mark.parametrize("installed", ["2.11.0", "2.11.0a0+c0ffee.nv26.01", "2.14.1+cu130", "3.0"])
def test_a_newer_one_and_a_distributors_are_not(installed: str) -> None:
    refuse_old("torch", installed, "2.11")


@pytest.mark.parametrize("causal", [True, False])
def test_the_flash_attention_of_this_release_takes_what_it_is_given(
    monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    """It runs on a GPU alone; its signature is the same everywhere."""
    signature = inspect.signature(varlen_attention.varlen_attn)
    taken: list[dict[str, Any]] = []

    def bind(*arguments: Any, **options: Any) -> torch.Tensor:
        taken.append(signature.bind(*arguments, **options).arguments)
        return arguments[0]

    monkeypatch.setattr(varlen_attention, "varlen_attn", bind)
    query, key = torch.zeros(6, 4, 8, dtype=torch.bfloat16), torch.zeros(6, 2, 8, dtype=torch.bfloat16)
    segments = Segments(torch.tensor([0, 2, 6], dtype=torch.int32), None, 4)
    varlen_attention.attend(query, key, key, segments, causal, scale=0.5)
    assert taken[0]["scale"] == 0.5
    assert taken[0]["window_size"] == ((-1, 0) if causal else (-1, -1))


@pytest.mark.parametrize(
    ("name", "given", "seen"),
    [
        ("PYTORCH_ALLOC_CONF", {}, "expandable_segments:True"),
        ("PYTORCH_ALLOC_CONF", {"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native"),
        ("PYTORCH_ALLOC_CONF", {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "None"),  # read without the newer
        ("GOMP_SPINCOUNT", {}, "10000"),
        ("GOMP_SPINCOUNT", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("GOMP_SPINCOUNT", {"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_memory_and_threads_are_set_before_torch_starts(name: str, given: dict[str, str], seen: str) -> None:
    unset = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {key: value for key, value in os.environ.items() if key not in unset} | given
    sees = f"import os, sys; print(os.environ.get({name!r}), 'torch' in sys.modules)"
    code = f"from leap.cli import run\nrun(lambda: exec({sees!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == f"{seen} False", done.stderr


def test_vllm_has_an_allocator_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOCATOR, SEGMENTS)
    assert ALLOCATOR not in _environment()
    monkeypatch.setenv(ALLOCATOR, "backend:cudaMallocAsync")
    assert _environment()[ALLOCATOR] == "backend:cudaMallocAsync"


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A GPU of that compute capability, as far as PyTorch is asked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: request.param)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100-SXM2-32GB")


@pytest.mark.usefixtures("old_gpu")
@pytest.mark.parametrize("old_gpu", [(7, 0), (7, 5), (6, 1)], indirect=True)
def test_an_emulated_bfloat16_is_refused() -> None:
    for words in ("bf16: Tesla V100-SXM2-32GB is older than Ampere", "--bf16 false --fp16", "float32"):
        with pytest.raises(LeapError, match=words):
            check_dtype(tiny_recipe(bf16=True))
    for recipe in (tiny_recipe(fp16=True), tiny_recipe()):
        check_dtype(recipe)
    assert pick_dtype(None, "cuda") == "float16"
    assert pick_dtype("float32", "cuda") == "float32"
    with pytest.raises(LeapError, match=r"--dtype bfloat16: Tesla V100.*use --dtype float16"):
        pick_dtype("bfloat16", "cuda")


@pytest.mark.usefixtures("old_gpu")
@pytest.mark.parametrize("old_gpu", [(8, 0), (9, 0), (12, 0)], indirect=True)
def test_a_real_bfloat16_is_taken() -> None:
    check_dtype(tiny_recipe(bf16=True))
    assert pick_dtype(None, "cuda:1") == "bfloat16"
    assert pick_dtype(None, "cpu") == "float32"


def test_flash_attention_of_packed_rows_needs_no_package(workspace: Path) -> None:
    """They have PyTorch's, whichever of the two fast ones is asked for."""
    plain = weights(train(workspace, "attention_sdpa", max_steps=1))
    flash = weights(train(workspace, "attention_flash", max_steps=1, attn_implementation="flash_attention_2"))
    assert all(torch.equal(plain[name], flash[name]) for name in plain)
    report = json.loads((workspace / "output" / "attention_flash" / "training_report.json").read_text())
    assert "micro-batches of about" in report["batches"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="flash-attn may be there")
def test_flash_attention_of_padded_rows_is_refused_without_its_package(workspace: Path) -> None:
    options = "--recipe demo --attn_implementation flash_attention_2 --packing false --dry_run".split()
    done = run_script(FINETUNE, *options, root=workspace)
    assert done.returncode == 1
    assert "flash_attention_2 with padded samples (packing=false) needs a GPU and the flash-attn package" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="flash-attn-4 may be there")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("", "needs bf16 or fp16, a GPU of Hopper's generation or Blackwell's and the package flash-attn-4"),
        ("--packing false", "flash_attention_4 is for packed samples, but packing=false means padded ones"),
    ],
)
def test_flash_attention_4_is_refused_where_it_does_not_run(workspace: Path, options: str, reason: str) -> None:
    asked = f"--recipe demo --attn_implementation flash_attention_4 {options} --dry_run".split()
    done = run_script(FINETUNE, *asked, root=workspace)
    assert done.returncode == 1
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("flags", "reason"),
    [("--attn_implementation eager", "attn_implementation=eager"), ("--packing false", "packing=false")],
)
def test_a_plan_says_that_padded_rows_are_slower(workspace: Path, flags: str, reason: str) -> None:
    line = ["--recipe", "demo", "--dry_run", "--output_dir", "output/only-planned"]
    done = run_script(FINETUNE, *line, *flags.split(), root=workspace)
    assert f"packing     none ({reason}): samples are padded, which is slower" in done.stdout
    plain = run_script(FINETUNE, *line, root=workspace)
    assert (plain.returncode, "packing " in plain.stdout) == (0, False), plain.stderr
