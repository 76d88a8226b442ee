"""What the benchmark of evaluation over several GPUs makes of the times at which answers came; a real run over Ray."""

import json
from pathlib import Path

import evaluation_scaling
import full_size
import pytest
from evaluation_scaling import rates
from test_jobs import needs_ray

from leap.errors import LeapError


def test_a_rate_counts_from_each_workers_warm_up_and_the_end_stands_beside_it() -> None:
    """Two workers, one of which is compiled 10 s later and ends 1 s later."""
    found = rates({0: [9.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0], 1: [19.0, 20.0, 21.0]}, 2)
    assert (found["workers"], found["ours"]) == ([0.5, 1.0], 1.5)
    assert (found["warm_after_seconds"], found["to_the_last_answer"]) == (20.0, 1.0)
    assert (found["seconds"], found["with_start_up"]) == (21.0, round(10 / 21, 3))


def test_a_worker_that_gave_no_answer_after_its_warm_up_has_no_rate() -> None:
    with pytest.raises(LeapError, match="1 answers, all warm-up: give more --examples"):
        rates({0: [1.0, 2.0, 3.0], 1: [1.0]}, 1)


@pytest.mark.slow
@needs_ray
def test_two_workers_against_one(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size, "EDGE", 64)
    words = "--device cpu --jobs 2 --image_tokens 4 9 --new_tokens 8 --examples 256 --warm_up 8 --batch_size 8".split()
    folders = ["--model", str(workspace / "models" / "tiny"), "--workdir", str(tmp_path), "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["evaluation_scaling.py", *words, *folders])
    evaluation_scaling.main()
    (path,) = tmp_path.glob("evaluation_scaling_hf-*.json")
    found = json.loads(path.read_text())
    assert (found["settings"]["examples"], found["settings"]["new_tokens"]) == (256, 8)
    assert found["scaling"] == pytest.approx(found["ours"] / found["one_gpu"]["ours"], abs=0.01)
    assert (len(found["workers"]), len(found["one_gpu"]["workers"])) == (2, 1)
