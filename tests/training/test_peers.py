"""Other trainers are timed in processes of their own: what fits is found, what fails has its reason, all is kept."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import peers
import pytest
from conftest import REPOSITORY
from make_readme import table
from peer_settings import COMMON, PEERS, PRECISIONS, TRAINERS, installation

# In a peer's place: memory suffices for three samples at once, and a setting is refused.
TRAINER = """#!{python}
import json, sys, time
from pathlib import Path
job = json.loads(Path(sys.argv[2]).read_text())
rows = job["options"]["per_device_train_batch_size"]
found = {{"versions": {{}}, "seconds": [2.0, 1.0], "waits": [0.0, 0.3], "samples": [6] * 4, "positions": [600] * 4}}
found |= dict.fromkeys("weights trained_weights autocast vision_attention optimizer losses peak_gb".split())
found["attention"] = "sdpa"
if job["options"].get("attn_impl") == "flash_attention_4":
    sys.exit("ValueError: no FlashAttention here")
if job["options"].get("model_init_kwargs", {{}}).get("attn_implementation") == "flash_attention_4":
    time.sleep(60)
if rows > 3:
    found["error"] = "OutOfMemoryError: CUDA out of memory.\\n Tried to allocate 9 GB"
Path(sys.argv[3]).write_text(json.dumps(found))
sys.exit("error" in found)
"""


@pytest.fixture
def arguments(tmp_path: Path) -> argparse.Namespace:
    trainer = tmp_path / "trainer"
    trainer.write_text(TRAINER.format(python=sys.executable))
    trainer.chmod(0o755)
    given = {
        "device": "cpu",
        "batch": (2, 3),
        "image": (96, 64),
        "image_tokens": (4, 16),
        "mixed": False,
        "small": True,
    }
    steps = {"steps": 4, "window": 2, "warm_up": 1, "rows": None, "longest": 60}
    pythons = {f"{name.replace('-', '_')}_python": str(trainer) for name in TRAINERS}
    return argparse.Namespace(**given, **steps, **pythons, workdir=tmp_path / "work", output=tmp_path / "results")


def new_result(arguments: argparse.Namespace) -> dict[str, Any]:
    where = {"device": "GPU", "versions": {}, "commit": "0123456789", "dirty": False, "command": "python peers.py"}
    return peers.new_result(arguments, where, "bf16")


def test_the_largest_micro_batch_that_fits_is_timed(arguments: argparse.Namespace) -> None:
    result = new_result(arguments)
    result["systems"]["LEAP"] = {"tflop_a_sample": 2.0, "peak_tflops_a_gpu": 100.0}
    tried = list(peers.measure(arguments, "bf16", "trl-sdpa", result))
    assert [one["micro_batch"] for one in tried] == [6, 3]
    assert tried[0]["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GB"
    found = tried[1]
    assert found["too_large"] == [6]
    assert (found["windows"], found["samples_per_second"]) == ([6.0, 12.0], 9.0)
    assert (found["mfu"], found["data_wait_share"], found["positions_a_step"]) == (0.18, 0.1, 600)

    result["systems"]["trl-sdpa"] = tried[0]  # as a run leaves it that is cut off here
    assert [one["micro_batch"] for one in peers.measure(arguments, "bf16", "trl-sdpa", result)] == [3]
    arguments.rows = 2
    assert [one["micro_batch"] for one in peers.measure(arguments, "bf16", "trl-sdpa", result)] == [2]


def test_a_peer_that_fails_has_its_reason(arguments: argparse.Namespace) -> None:
    (found,) = peers.measure(arguments, "bf16", "ms-swift-fa4", new_result(arguments))
    assert found["error"].startswith("exit code 1: ValueError: no FlashAttention here (")
    arguments.longest = 1
    (found,) = peers.measure(arguments, "bf16", "trl-fa4", new_result(arguments))
    assert found["error"].startswith("took longer than 1 s; ")
    arguments.trl_python = "/none/python"
    (found,) = peers.measure(arguments, "bf16", "trl-sdpa", new_result(arguments))
    assert found["error"] == "/none/python: No such file or directory"


def test_steps_of_other_samples_are_no_figure() -> None:
    assert peers.uneven({"seconds": [1.0], "samples": [6, 5]}, 6) == "counted [5, 6] samples a step, not 6"
    assert peers.uneven({"seconds": [1.0], "samples": [6, 6]}, 6) is None


def test_parts_are_kept_until_all_are_there(arguments: argparse.Namespace) -> None:
    arguments.output.mkdir()
    result = new_result(arguments)
    known = {"attention": "sdpa", "mfu": 0.4, "peak_gb": 80.5, "data_wait_share": 0.01, "positions_a_step": 3100}
    for name, rate in {"LEAP": 60.0, **{name: 30.0 + index for index, name in enumerate(PEERS)}}.items():
        assert not list(arguments.output.glob("*.json"))
        result["systems"][name] = {"samples_per_second": rate, "windows": [rate], "micro_batch": 18, **known}
        if name == "ms-swift-fa4":
            result["systems"][name] = {"error": "OutOfMemoryError: of 140 | GB", "micro_batch": 1}
        peers.write_result(arguments.output, result, list(PEERS))
        assert peers.earlier_parts(new_result(arguments), arguments.output)["systems"] == result["systems"]
    (path,) = arguments.output.iterdir()
    assert path.name == "training_peers_bf16_small-GPU.json"
    found = json.loads(path.read_text())
    assert (found["ratio"], found["seed_setting"], found["compared_with"]) == (1.76, 34.0, "the fastest peer, trl-fa4")

    few = {**new_result(arguments), "systems": {name: result["systems"][name] for name in ("LEAP", "trl-sdpa")}}
    peers.write_result(arguments.output, few, ["trl-sdpa"])
    partly = json.loads(path.read_text())
    assert (partly["compared_with"], len(partly["not_tried"])) == ("the fastest peer tried, trl-sdpa", len(PEERS) - 1)
    assert table(arguments.output).count(" | not tried | ") == len(PEERS) - 1
    peers.write_result(arguments.output, result, list(PEERS))

    arguments.steps = 8  # another way to measure: nothing of the file is taken
    assert peers.earlier_parts(new_result(arguments), arguments.output)["systems"] == {}

    page = table(arguments.output)
    assert "1.76 times the fastest peer, trl-fa4 (34.00)" in page
    lines = [line for line in page.splitlines() if line.startswith("| [bf16_small]")]
    assert [line.split(" | ")[2] for line in lines[:2]] == ["LEAP", "trl-fa4"]
    assert "| trl-fa4 | sdpa | 18 | 34.00 | 1.76 times as fast | 40.0% | 3,100 | 80.5 | 1.0% |" in lines[1]
    assert "| failed: OutOfMemoryError: of 140 / GB |" in lines[-1]
    assert len({line.count(" | ") for line in lines}) == 1


def test_every_trainer_has_every_precision_and_commands_that_install_it() -> None:
    assert {peer.trainer for peer in PEERS.values()} == set(TRAINERS)
    for trainer in TRAINERS.values():
        assert set(trainer.precisions) == set(PRECISIONS)
        assert all(version in installation() for version in trainer.versions)
    pytest.importorskip("trl")
    from transformers import TrainingArguments

    assert set(COMMON) <= set(TrainingArguments.__dataclass_fields__)


@pytest.mark.slow
def test_trl_is_timed_beside_leap(tmp_path: Path) -> None:
    """On a small model: the same samples a step on both sides, and TRL's padding counted."""
    pytest.importorskip("trl")
    options = (
        "--device cpu --small --batch 2 1 --image 96 64 --image_tokens 4 16 --steps 2 --window 1 --warm_up 1 "
        "--precisions fp32 --peers trl-sdpa --samples 16 --set bf16=false dataloader_num_workers=1 "
        f"--trl_python {sys.executable} --workdir {tmp_path / 'work'} --output {tmp_path}"
    ).split()
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "peers.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("training_peers_fp32_small-*.json")
    found = json.loads(path.read_text())
    assert len(found["not_tried"]) == len(PEERS) - 1
    leap, trl = found["systems"]["LEAP"], found["systems"]["trl-sdpa"]
    assert leap["samples_a_step"] == trl["samples_a_step"] == 2
    assert trl["positions_a_step"] >= leap["positions_a_step"] > 0
    assert set(trl["trained_weights"]) == {"torch.float32"}
    assert (len(leap["windows"]), len(trl["windows"])) == (2, 2)
    assert found["ratio"] == pytest.approx(leap["samples_per_second"] / trl["samples_per_second"], abs=0.01)
