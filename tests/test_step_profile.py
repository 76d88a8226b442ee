"""Where a step's time goes is read off a trace: kinds of kernels, and the time in which none runs."""

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


def test_without_a_gpu_the_innermost_operators_count() -> None:
    operators = [event("aten::linear", 0, 10, "cpu_op"), event("aten::addmm", 1, 8, "cpu_op")]
    found = summarise([*operators, event("aten::add", 20, 5, "cpu_op"), event("aten::gelu", 0, 3, "cpu_op", tid=8)])
    assert {kernel["name"] for kernel in found["longest"]} == {"aten::addmm", "aten::add", "aten::gelu"}


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
