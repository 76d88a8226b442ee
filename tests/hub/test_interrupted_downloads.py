"""A download that is interrupted or killed, whenever that is, is continued by the same command."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from downloading import on_disk
from servers.hub import HubServer
from servers.hub_store import Fault, Seen, Stored, limited

pytestmark = pytest.mark.slow
NAME, SLOW, IN_FLIGHT = "EvanSirius/leap-agibot-processed", Fault("slow", slow=0.005, step=4096), 500_000
SIZES = {"small.json": 500, "one.tar.gz": 3_000_000, "two.tar.gz": 2_000_000, "three.tar.gz": 1_500_000}


def start(root: Path, hub: HubServer, *flags: str) -> subprocess.Popen[str]:
    environment = os.environ | {"LEAP_ROOT": str(root), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, str(REPOSITORY / "scripts/download/download_leap_data.py"), *flags]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(hub: HubServer, sent: int, process: subprocess.Popen[str]) -> None:
    while sum(hub.sent.values()) < sent:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGKILL], ids=lambda ends: ends.name)
def test_a_run_that_is_stopped_again_and_again_is_continued(tmp_path: Path, ends: signal.Signals) -> None:
    draw = random.Random(1)
    repository = Stored(NAME, "dataset", {path: draw.randbytes(size) for path, size in SIZES.items()})
    with HubServer([repository], lambda seen: SLOW if seen.what == "file" else None) as hub:
        for sent in (200_000, 2_000_000, 4_500_000):
            process = start(tmp_path, hub)
            wait_for(hub, sent, process)
            process.send_signal(ends)
            _, message = process.communicate(timeout=30)
            if ends is signal.SIGINT:
                assert process.returncode == 130
                assert message.splitlines()[-1] == "interrupted; the same command continues from here"
                assert "Traceback" not in message
            found = on_disk(tmp_path / "data")  # under its name, each is whole
            assert all(found[path] == repository.files[path] for path in found if not path.startswith(".download-"))
        process = start(tmp_path, hub)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 0, message
    assert on_disk(tmp_path / "data") == repository.files
    assert sum(SIZES.values()) <= sum(hub.sent.values()) <= sum(SIZES.values()) + IN_FLIGHT


def test_an_interruption_ends_a_long_wait(tmp_path: Path) -> None:
    def plan(seen: Seen) -> Fault | None:
        return limited({"Retry-After": "600"}) if seen.what == "file" else None

    with HubServer([Stored(NAME, "dataset", {"a.txt": b"a"})], plan) as hub:
        process = start(tmp_path, hub)
        assert process.stderr is not None
        message = next(line for line in process.stderr if "waiting" in line)
        assert "429" in message
        assert "waiting 600 s (try 1 of 8)" in message
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
