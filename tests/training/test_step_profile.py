"""Where a step's time goes is read off a trace: kinds of kernels, and the time in which none runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from step_profile import as_markdown, kind_of, summarise


def event(name: str, start: float, length: float, cat: str = "kernel", tid: int = 7) -> dict:
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": length, "tid": tid}


def test_kinds_and_idle_time_of_kernels() -> None:
    found = summarise(
        [
            event("nvjet_hsh_128x256", 0, 4000),
            event("flash_fwd_kernel", 3000, 3000),  # on another stream, at once with the product
            event("Memcpy HtoD", 8000, 1000, cat="gpu_memcpy"),
            event("triton_poi_fused_mul_silu_0", 9000, 1000),
            event("cudaLaunchKernel", 0, 9e9, cat="cuda_runtime"),  # the CPU's time is none of the GPU's
            {"ph": "M", "name": "process_name"},
        ]
    )
    assert found["span_ms"] == 10
    assert found["idle_share"] == 0.2  # from 6 to 8
    assert found["kinds_ms"] == {"matrix products": 4, "attention": 3, "copies": 1, "elementwise and Triton": 1}
    assert found["longest"][0] == {"name": "nvjet_hsh_128x256", "kind": "matrix products", "calls": 1, "ms": 4.0}
    assert "| matrix products | 2.0 | 40.0% |" in as_markdown({"steps": 2, **found})


def test_without_a_gpu_operators_count_without_those_that_they_call() -> None:
    operators = [event("aten::linear", 0, 10_000, "cpu_op"), event("aten::addmm", 1000, 8000, "cpu_op")]
    inner = [event("aten::conj", 2000, 1000, "cpu_op"), event("aten::copy_", 3000, 2000, "cpu_op")]
    others = [event("aten::add", 20_000, 5000, "cpu_op"), event("silu", 0, 3000, "cpu_op", tid=8)]
    found = summarise([*operators, *inner, *others])
    own = {kernel["name"]: kernel["ms"] for kernel in found["longest"]}
    assert own == {"aten::addmm": 5, "aten::add": 5, "silu": 3, "aten::linear": 2, "aten::copy_": 2, "aten::conj": 1}
    assert found["idle_share"] == 0.4


def test_kernels_have_the_kinds_that_profilers_know_them_by() -> None:
    kinds = {
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>": "optimiser",
        "sm90_xmma_gemm_bf16bf16_bf16f32": "matrix products",
        "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel": "attention",
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL": "communication",
        "void at::native::vectorized_elementwise_kernel<4>": "elementwise and Triton",
        "something_else": "others",
    }
    assert {name: kind_of(name) for name in kinds} == kinds


@pytest.mark.slow
def test_the_training_benchmark_measures_both_sides(tmp_path: Path) -> None:
    """On a tiny model: both start from the same loss on the same samples, of three sizes and all lengths."""
    options = (
        "--device cpu --small --modes full --batch 2 1 --image 96 64 --image_tokens 4 16 --steps 4 --window 2 "
        "--warm_up 1 --seed_steps 2 --profile --mixed --set bf16=false "
        f"--workdir {tmp_path / 'work'} --output {tmp_path}"
    ).split()
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "training_throughput.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("training_throughput_full_mixed_small-*.json")
    found = json.loads(path.read_text())
    assert (len(found["windows"]), len(found["seed_windows"])) == (2, 2)
    assert found["parity"]["first_step_loss_difference"] < 1e-3
    assert 0 <= found["data_wait_share"] <= 1
    assert found["profile"]["kinds_ms"]["matrix products"] > 0
    assert not list(tmp_path.glob("*.partial"))
