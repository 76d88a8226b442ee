"""A step that runs out of memory is done again in smaller batches, and no start comes to the same end twice.

The CPU's memory is far larger than these models, so the forward says that it is full beyond so many tokens, as CUDA's
allocator would: with the same exception, before the step's gradients are whole.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PYTHONPATH, REPOSITORY, TINY_RECIPE, run_script
from safetensors.torch import load_file
from test_training import FINETUNE, STEPS, losses, weights

from leap.errors import LeapError
from leap.models.qwen3_vl import packed_forward
from leap.training.memory_plan import LEVELS, MemoryPlan, smaller
from leap.training.out_of_memory import FILE, recall, remember

EIGHT = "--per_device_train_batch_size 4 --gradient_accumulation_steps 2".split()


def full_beyond(tokens: int) -> Callable[..., torch.Tensor]:
    """The packed forward of a device that holds so many tokens; it fails after computing, or on the way back."""
    original = packed_forward._forward

    def forward(self: Any, **micro_batch: Any) -> torch.Tensor:
        loss = original(self, **micro_batch)
        if len(micro_batch["input_ids"]) > tokens and self.training:
            loss.register_hook(_full) if len(micro_batch["input_ids"]) % 2 else _full()
        return loss

    return forward


def _full(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture(scope="module")
def undisturbed(workspace: Path) -> tuple[dict[str, torch.Tensor], list[float], list[int]]:
    """Weights, losses, and the tokens of every batch of a run with enough memory."""
    seen: list[int] = []
    original = packed_forward._forward

    def forward(self: Any, **micro_batch: Any) -> torch.Tensor:
        seen.append(len(micro_batch["input_ids"]))
        return original(self, **micro_batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_forward, "_forward", forward)
        done = run_script(FINETUNE, *STEPS, *EIGHT, "--output_dir", "output/enough", root=workspace)
    assert done.returncode == 0, done.stderr
    return weights(workspace, "enough"), losses(done.stderr), seen


@pytest.mark.parametrize("share", [0.9, pytest.param(0.45, marks=pytest.mark.slow)])
def test_a_step_that_does_not_fit_is_done_in_smaller_batches(
    workspace: Path,
    undisturbed: tuple[dict[str, torch.Tensor], list[float], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    """Every sample counts once: the loss and the weights are those of a run that never ran out of memory."""
    expected, wanted, seen = undisturbed
    monkeypatch.setattr(packed_forward, "_forward", full_beyond(int(share * max(seen))))
    run = f"out-of-memory-{share}"
    done = run_script(FINETUNE, *STEPS, *EIGHT, "--output_dir", f"output/{run}", root=workspace)
    assert done.returncode == 0, done.stderr
    assert "out of memory in step" in done.stderr
    assert losses(done.stderr) == pytest.approx(wanted, abs=2e-4)
    found = weights(workspace, run)
    # Adam's first steps divide by the gradient's size: rounding of a gradient near zero moves a weight by a rate.
    assert all((found[name] - expected[name]).abs().gt(1e-5).float().mean() < 0.01 for name in expected)


@pytest.mark.slow
def test_samples_that_do_not_fit_one_by_one_end_the_run_and_the_next_start_divides_further(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = workspace / "output" / "full"
    with monkeypatch.context() as patch:
        patch.setattr(packed_forward, "_forward", full_beyond(1))
        done = run_script(FINETUNE, *STEPS, *EIGHT, "--output_dir", "output/full", root=workspace)
    assert done.returncode == 1
    assert "step 1 ran out of memory in 2 batches with checkpointing none; run the same command again" in done.stderr
    assert recall(run) == MemoryPlan(2, "none")
    done = run_script(FINETUNE, *STEPS, *EIGHT, "--output_dir", "output/full", root=workspace)
    assert done.returncode == 0, done.stderr
    assert "batches     4 micro-batches" in done.stderr


def test_validation_that_does_not_fit_names_its_batch_size(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = packed_forward._forward

    def forward(self: Any, **micro_batch: Any) -> torch.Tensor:
        return original(self, **micro_batch) if self.training else _full()  # type: ignore[return-value]

    monkeypatch.setattr(packed_forward, "_forward", forward)
    (workspace / "data" / "few.jsonl").write_bytes((workspace / "data" / "blind_10.jsonl").read_bytes())
    options = "--val_file data/few.jsonl --eval_steps 1 --output_dir output/validation-full".split()
    done = run_script(FINETUNE, *STEPS, *EIGHT, *options, root=workspace)
    assert done.returncode == 1
    assert "validation ran out of memory: lower --per_device_eval_batch_size" in done.stderr


def test_what_ran_out_of_memory_is_divided_further_until_nothing_is_left(tmp_path: Path) -> None:
    fits = [MemoryPlan(3, "none"), MemoryPlan(6, "all")]
    assert smaller(fits, MemoryPlan(2, "none"), 36, LEVELS) == [MemoryPlan(4, "none"), MemoryPlan(6, "all")]
    assert smaller(fits, MemoryPlan(20, "none"), 36, LEVELS) == [MemoryPlan(36, "none"), MemoryPlan(36, "all")]
    assert smaller(fits, MemoryPlan(36, "none"), 36, LEVELS) == [MemoryPlan(36, "all")]
    with pytest.raises(LeapError, match="one sample does not fit"):
        smaller(fits, MemoryPlan(36, "all"), 36, LEVELS)
    assert recall(tmp_path) is None
    remember(tmp_path, 7, MemoryPlan(4, "vision"))
    remember(tmp_path, 9, MemoryPlan(2, "none"))  # an earlier start's, if at all
    assert recall(tmp_path) == MemoryPlan(4, "vision")
    (tmp_path / FILE).write_text('{"step": 1, "micro_batches": 0, "checkpointing": "none"}')
    with pytest.raises(LeapError, match=rf"{FILE}: micro_batches: .*; remove the file"):
        recall(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_runs_out_of_memory(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else takes the GPU after the first step: from then on it has too little for any step's one batch."""
    original, needed, taken, calls = packed_forward._forward, 0, [], 0
    step = [*STEPS, "--per_device_train_batch_size", "8"]

    def measured(self: Any, **micro_batch: Any) -> torch.Tensor:
        nonlocal needed
        needed = max(needed, torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        return original(self, **micro_batch)

    def crowded(self: Any, **micro_batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # after the trial and the first step, which makes the optimiser's state
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info()
            within = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # rest of segments that are in use
            left = max(0.0, 0.6 * needed - within)
            taken.append(torch.empty(int(free - left), dtype=torch.uint8, device="cuda"))
        return original(self, **micro_batch)

    monkeypatch.setattr(packed_forward, "_forward", measured)
    enough = run_script(FINETUNE, *step, "--output_dir", "output/gpu-enough", root=workspace)
    assert enough.returncode == 0, enough.stderr
    monkeypatch.setattr(packed_forward, "_forward", crowded)
    done = run_script(FINETUNE, *step, "--output_dir", "output/gpu-crowded", root=workspace)
    assert done.returncode == 0, done.stderr
    assert "out of memory in step" in done.stderr
    assert losses(done.stderr) == pytest.approx(losses(enough.stderr), abs=2e-3)


@pytest.mark.slow
def test_a_rank_that_runs_out_of_memory_keeps_step_with_the_other(
    workspace: Path, undisturbed: tuple[dict[str, torch.Tensor], list[float], list[int]], tmp_path: Path
) -> None:
    """Rank 1 alone runs out of memory, where nothing is summed after; and rank 0 has less free than rank 1."""
    expected, wanted, _ = undisturbed
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = "--per_device_train_batch_size 2 --gradient_accumulation_steps 2 --output_dir output/two-ranks".split()
    done = subprocess.run(
        [
            *command,
            str(REPOSITORY / "tests" / "training" / "test_out_of_memory.py"),
            str(tmp_path / "fits.json"),
            FINETUNE,
            *STEPS,
            *options,
        ],
        env={
            **os.environ,
            "LEAP_ROOT": str(workspace),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": PYTHONPATH,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "rank 1: out of memory in step" in done.stderr
    assert "rank 0: out of memory" not in done.stderr
    assert losses(done.stderr) == pytest.approx(wanted, abs=2e-4)
    found = load_file(workspace / "output" / "two-ranks" / "checkpoint-3" / "model.safetensors")
    assert all((found[name] - expected[name]).abs().gt(1e-5).float().mean() < 0.01 for name in expected)
    fits = json.loads((tmp_path / "fits.json").read_text())
    assert fits[0] == fits[1]
    assert fits[0] != fits[2]


def _rank(results: str, script: str, *options: str) -> None:
    """What each rank of the test above does: train, then divide a step by its own free memory."""
    from sharded_state import leave
    from test_memory_plan import CONFIG, plan
    from torch import distributed

    from leap.training import optimizer_choice
    from leap.training.memory_plan import candidates, common_candidates
    from leap.training.ranks import Ranks
    from leap.training.recipe import read_recipe

    rank = int(os.environ["RANK"])
    if rank == 1:
        original = packed_forward._forward
        calls: list[int] = []

        def forward(self: Any, **micro_batch: Any) -> torch.Tensor:
            calls.append(len(micro_batch["input_ids"]))
            loss = original(self, **micro_batch)
            if len(calls) == 1:  # the first micro-batch of the first step, on its way back
                loss.register_hook(_full)
            if len(calls) == 5:  # the last micro-batch of a later one, before anything is summed
                _full()
            return loss

        packed_forward._forward = forward
    done = run_script(script, *options, root=Path(os.environ["LEAP_ROOT"]))
    sys.stderr.write(done.stderr)
    assert done.returncode == 0
    free = 43.6e9 if rank else 39.6e9
    ranks = Ranks()
    with pytest.raises(LeapError, match=r"samples: rank 0 on \S+ has 10, rank 1 on \S+ has 11: all ranks"):
        ranks.same("samples", 10 + rank)
    ranks.same("samples", 10)
    optimizer_choice._gpu_bytes = lambda: 1e12 if rank else 1e6
    root = Path(os.environ["LEAP_ROOT"])
    recipe = read_recipe(Path(TINY_RECIPE), {"bf16": True, "optim": "auto"})
    chosen = optimizer_choice.choose_optimizer(recipe, root / "models" / "tiny", root / "nowhere", ranks)
    assert chosen == "adamw_bf16_stochastic"
    mine = common_candidates(plan(360), CONFIG, free, LEVELS, torch.device("cpu"))
    found: list[Any] = [None, None]
    distributed.all_gather_object(found, [[fit.micro_batches, fit.checkpointing] for fit in mine])
    if rank == 0:
        alone = [[fit.micro_batches, fit.checkpointing] for fit in candidates(plan(360), CONFIG, 43.6e9, LEVELS)]
        Path(results).write_text(json.dumps([*found, alone]))
    leave()


if __name__ == "__main__":
    _rank(*sys.argv[1:])
