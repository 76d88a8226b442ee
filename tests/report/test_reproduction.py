"""The published table beside ours, and reproduce.sh from the first download to the file that is sent."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sysconfig
import time
import venv
from pathlib import Path

import pytest
from conftest import PYTHONPATH, REPOSITORY, run_script
from servers.hub import HubServer
from servers.hub_store import Stored
from test_summary import write_results
from tiny_models import save_tiny_model

from leap.hardware import GpuState
from leap.hub import reproduction_needs
from leap.records.json_files import read_object
from leap.report.reproduction import FILE, PUBLISHED, _without_places, beside_published, parts, write_reproduction
from leap.report.results import read_scores
from leap.vlabench.dimensions import NAMES

BASE, CHECKPOINTS = "Qwen/Qwen3-VL-2B-Instruct", "EvanSirius/leap-ckpts"
BENCHMARK = "VLABench/vlm_evaluation_v1.0"
QUICK = "--prompt leap --scorer leap --device cpu --image_tokens_min 4 --image_tokens_max 4 --max_new_tokens 16".split()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two tasks a dimension of 12 examples: ten of 20 and two of 80, and 10 points more."""
    write_results(tmp_path, "Baseline", [20.0, 30.0] * 5 + [80.0, 80.0])
    write_results(tmp_path, "checkpoint-5000", [30.0, 40.0] * 5 + [80.0, 80.0])
    return tmp_path


def test_the_first_ten_of_each_task_are_what_was_published(results: Path) -> None:
    (ten, first), (whole, everything) = parts(read_scores(results, PUBLISHED))
    assert (ten, whole) == ("10 a task (120)", "whole (144)")
    assert len(first) == 2 * 120
    assert first["total_score"].max() == 40
    assert len(everything) == 2 * 144
    assert [name for name, _ in parts(first)] == [ten]


def test_the_table_has_intervals_beside_the_published_numbers(results: Path) -> None:
    table = beside_published(read_scores(results, PUBLISHED))
    assert table.loc["Baseline, published", "mean"] == "25.10"
    assert table.loc["checkpoint-5000, published", "Complex"] == "19.67"
    assert table.loc["Baseline, 10 a task (120)", "Spatial"].startswith("25.0 [2")
    assert table.loc["difference, published", "mean"] == "+3.28"
    assert table.loc["difference, 10 a task (120)", "mean"] == "+10.0 [+10.0, +10.0]"
    assert table.loc["difference, whole (144)", "mean"].startswith("+8.3 [+")
    alone = beside_published(read_scores(results, ["Baseline"]))
    assert alone.loc["checkpoint-5000, 10 a task (120)"].tolist() == ["-"] * 7


def test_the_published_means_are_those_of_the_dimensions() -> None:
    for known in PUBLISHED.values():
        assert known["mean"] == pytest.approx(sum(known[name] for name in NAMES) / len(NAMES), abs=0.006)


def test_the_file_to_send_says_neither_where_nor_who(results: Path) -> None:
    home = "/home/alice"
    arguments = [f"--chat-template {home}/a", "dtype=~/b", "C:\\alice", "Qwen/Qwen3"]
    secret = {"model_path": home, "command": f"python {home}/x.py", "data": {"path": home}}
    secret |= {"settings": {"engine_arguments": arguments}}
    for path in results.glob("*/*/manifest.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **secret}))
    text = write_reproduction(results, REPOSITORY).read_text()
    assert "alice" not in text
    found = json.loads(text)
    assert found["evaluations"][0]["settings"]["engine_arguments"] == ["(left out)"] * 3 + ["Qwen/Qwen3"]
    assert found["evaluations"][0]["counts"]["examples"] == 24
    assert found["examples"]["Baseline"]["Spatial"]["task_a"]["0"] == [20.0, 20.0]
    (mean,) = [
        row
        for row in found["means"]["10 a task (120)"]["grounded"]
        if (row["model"], row["dimension"]) == ("Baseline", "mean")
    ]
    assert mean["mean"] == pytest.approx(25)
    assert mean["low"] < 25 < mean["high"]
    assert _without_places({"a": ["x=/y", "a b", "1/2"]}) == {"a": ["(left out)", "a b", "1/2"]}


@pytest.fixture
def hub(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A benchmark of the real layout, whose Spatial has 12 examples, and two tiny models."""
    data = tmp_path / "benchmark"
    shutil.copytree(workspace / "dataset" / "vlm_evaluation_v1.0", data)
    (first,) = data.glob("Spatial/*/example0")
    for number in range(2, 12):
        shutil.copytree(first, first.with_name(f"example{number}"))
    texts = [path.read_text() for path in data.glob("*/*/*/input/instruction.txt")]
    stores = [Stored(BENCHMARK, "dataset", _files(data))]
    for name, below, seed in ((BASE, "", 0), (CHECKPOINTS, "checkpoint-5000/", 1)):
        model = save_tiny_model("qwen3_vl", tmp_path / f"model{seed}", texts, seed)
        stores.append(Stored(name, "model", {below + path: content for path, content in _files(model).items()}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return HubServer(stores)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_disk_and_hours_are_said_first(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        done = run_script("scripts/evaluation/reproduce.py", "--check", root=root)
        assert done.returncode == 0, done.stderr
        *downloads, disk, hours = done.stdout.splitlines()
        assert [line.split(":")[0] for line in downloads] == [BASE, BENCHMARK, CHECKPOINTS]
        assert (
            f"{5 * 2 * 4 + 12 * 4} of {5 * 2 * 4 + 12 * 4} files" in downloads[1] or "files to download" in downloads[1]
        )
        assert disk.startswith("disk: ")
        assert hours.startswith("hours: 2 x 22 examples")
        assert list(root.iterdir()) == []
        monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
        full = run_script("scripts/evaluation/reproduce.py", "--check", root=root)
    assert full.returncode == 1
    assert "are to be downloaded, and 0 bytes of the disk are free" in full.stderr


def test_hours_go_by_the_peak_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"device": "NVIDIA H100 80GB HBM3", "ours": 10.0, "settings": {"new_tokens": 128}}
    said = {}
    for name in ("NVIDIA L4", "Unheard-of"):
        monkeypatch.setattr(reproduction_needs, "gpu_states", lambda name=name: [GpuState("0", name, 0, 1, 0)])
        said[name] = reproduction_needs._hours(4500, measured)
    assert said["NVIDIA L4"].startswith("hours: 2 x 4500 examples, about 2.0 on NVIDIA L4; 0.2 on one NVIDIA H100")
    assert said["Unheard-of"].endswith("how fast Unheard-of is, is not known")


@pytest.mark.slow
def test_from_nothing_to_the_file_that_is_sent_killed_on_the_way(hub: HubServer, tmp_path: Path) -> None:
    root, results = tmp_path / "root", tmp_path / "root" / "eva_results" / "reproduction"
    root.mkdir()
    command = ["bash", str(REPOSITORY / "reproduce.sh"), *QUICK]
    with hub:
        environment = {**_installed(tmp_path / "environment"), "HF_ENDPOINT": hub.url, "LEAP_ROOT": str(root)}
        begun = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        scored = results / "Complex" / "Baseline" / "final_score.json"
        while not scored.is_file():
            assert begun.poll() is None
            time.sleep(0.05)
        os.killpg(begun.pid, signal.SIGKILL)
        begun.wait()
        hub.reset()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert not hub.sent  # all of it was there and right
    for name in ("Baseline, published", "29.60", "10 a task (20)", "whole (22)", "grounded (at most 100)", "floor"):
        assert name in done.stdout
    found = read_object(results / FILE)
    assert set(found["means"]) == {"10 a task (20)", "whole (22)"}
    assert len(found["evaluations"]) == 2 * len(NAMES)
    for evaluation in found["evaluations"]:
        asked = sum(session["answers"] for session in evaluation["inference"])
        assert asked == evaluation["counts"]["examples"] == (12 if evaluation["dimension"] == "Spatial" else 2)
        assert evaluation["model"]["weights"]
    text = (results / FILE).read_text()
    assert str(tmp_path) not in text
    assert platform.node() not in text
    assert len(text) < 100_000


def _installed(place: Path) -> dict[str, str]:
    """The variables of an active environment with what this one has, in which reproduce.sh finds LEAP installed."""
    venv.create(place, with_pip=False)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "all.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    made_of = [*((REPOSITORY / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))]
    made_of.append(f"{REPOSITORY}\n".encode())
    stamp = subprocess.run(["sha256sum"], input=b"".join(made_of), capture_output=True, check=True)
    (place / ".leap-installed").write_bytes(stamp.stdout)
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "VIRTUAL_ENV": str(place), "PATH": path, "PYTHONPATH": PYTHONPATH, "HF_HUB_OFFLINE": "0"}
