"""Where the time of training steps goes, from the events of a PyTorch trace."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

# The first kind whose pattern is found in a kernel's name is its kind.
KINDS = {
    "communication": r"nccl|gloo|all_?reduce|all_?gather",
    "attention": r"flash|fmha|attention|sdpa",
    "matrix products": r"gemm|cutlass|nvjet|xmma|cublas|\bmm\b|matmul|addmm|\bbmm\b|mkldnn_linear|splitk",
    "optimiser": r"multi_tensor_apply|adam|foreach|lpnorm",
    "copies": r"memcpy|memset|copy_|\bcopy\b|\bto_copy\b|\bcat\b|catarray|fill",
    "elementwise and Triton": r"triton|elementwise|reduce|vectorized|norm|gelu|silu|softmax|\bmul\b|\badd\b|loss",
}


def summarise(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds by kind of kernel, the share of the span in which none ran, and the kernels that take longest.

    Kernels of several streams may run at once, so the kinds may add up to more than the busy time. Without a GPU the
    operators of the CPU take the kernels' place.
    """
    complete = [event for event in events if event.get("ph") == "X"]
    kernels = [event for event in complete if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    operators = [event for event in complete if event.get("cat") == "cpu_op"]
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in kernels or operators]
    if not spans:
        return {"span_ms": 0.0, "idle_share": None, "kinds_ms": {}, "longest": []}
    kinds: Counter[str] = Counter()
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in kernels or _own_times(operators):
        kinds[kind_of(event["name"])] += event["dur"]
        by_name[event["name"]].append(event["dur"])
    span, busy = _span_and_busy(spans)
    longest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:20]
    return {
        "span_ms": round(span / 1e3, 2),
        "idle_share": round(1 - busy / span, 4),
        "kinds_ms": {kind: round(total / 1e3, 2) for kind, total in kinds.most_common()},
        "longest": [
            {"name": name[:120], "kind": kind_of(name), "calls": len(times), "ms": round(sum(times) / 1e3, 2)}
            for name, times in longest
        ],
    }


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "others")


def _own_times(operators: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Operators without the time of those that they call."""
    found = [dict(operator) for operator in operators]
    for thread in {operator["tid"] for operator in found}:
        calling: list[dict[str, Any]] = []
        ends: list[float] = []
        for one in sorted((one for one in found if one["tid"] == thread), key=lambda one: (one["ts"], -one["dur"])):
            while ends and ends[-1] <= one["ts"]:
                ends.pop()
                calling.pop()
            if calling:
                calling[-1]["dur"] -= one["dur"]
            ends.append(one["ts"] + one["dur"])
            calling.append(one)
    return found


def _span_and_busy(intervals: list[tuple[float, float]]) -> tuple[float, float]:
    """From the first begin to the last end, and how much of it is covered, in the intervals' unit."""
    intervals = sorted(intervals)
    busy, end = 0.0, intervals[0][0]
    for start, stop in intervals:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return end - intervals[0][0], busy


def as_markdown(summary: dict[str, Any]) -> str:
    """The kinds as a table."""
    lines = ["| kind | ms a step | share |", "| --- | ---: | ---: |"]
    for kind, total in summary["kinds_ms"].items():
        lines.append(f"| {kind} | {total / summary['steps']:.1f} | {total / summary['span_ms']:.1%} |")
    idle = summary["idle_share"] or 0.0
    lines.append(f"| no kernel running | {idle * summary['span_ms'] / summary['steps']:.1f} | {idle:.1%} |")
    return "\n".join(lines)
