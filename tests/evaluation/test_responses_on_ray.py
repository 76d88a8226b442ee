"""The benchmark of the one process that writes all responses, over a real Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PYTHONPATH, REPOSITORY
from test_jobs import needs_ray


@pytest.mark.slow
@needs_ray
def test_all_responses_are_written_and_timed(workspace: Path, tmp_path: Path) -> None:
    words = ["--workspace", workspace, "--checkpoint", workspace / "models" / "tiny", "--repeats", "5", "--rounds", "1"]
    script = [sys.executable, "benchmarks/responses_on_ray.py", *words, "--workdir", tmp_path, "--output", tmp_path]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    subprocess.run(script, env=environment, cwd=REPOSITORY, check=True)
    (path,) = tmp_path.glob("responses_on_ray-*.json")
    found = json.loads(path.read_text())
    lines = b"".join(one.read_bytes() for one in tmp_path.rglob("predictions.jsonl"))
    assert found["settings"]["responses"] == lines.count(b"\n") > 0
    assert found["ours"] == found["windows"][0] > 0
