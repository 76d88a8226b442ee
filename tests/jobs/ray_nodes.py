"""Ray nodes on one machine, each with an address, a host name and processes of its own: network namespaces."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from conftest import PYTHONPATH, REPOSITORY
from two_hosts import TwoHosts

PORT = 6399


class RayNodes(TwoHosts):
    """Ray's first node is in the first, and so is what `start` starts."""

    def __init__(self) -> None:
        super().__init__("ray", "10.78.0")
        self.address = f"{self.addresses[0]}:{PORT}"
        self._started: list[subprocess.Popen[bytes]] = []
        self._folders = [Path("/tmp") / name for name in self.names]  # Ray's sockets need short paths

    def add(self, number: int, cpus: int) -> None:
        """Start Ray there, and return when it runs."""
        role = f"--head --port {PORT}" if number == 0 else f"--address {self.address}"
        own = f"--node-ip-address {self.addresses[number]} --num-cpus {cpus} --temp-dir {self._folders[number]}"
        shared = "--object-store-memory 80000000 --disable-usage-stats --block"
        dashboard = "--include-dashboard false" * (number == 0)
        words = f"{role} {own} {shared} {dashboard}".split()
        process = self.start(number, [sys.executable, "-m", "ray.scripts.scripts", "start", *words])
        while "Ray runtime started" not in self.log(number):
            assert process.poll() is None, self.log(number)
            time.sleep(0.1)

    def start(self, number: int, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        whole = {**os.environ, "PYTHONPATH": PYTHONPATH, "RAY_AUTH_MODE": "disabled", **environment}
        log = self._folders[number].with_suffix(".log")
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self.inside(number), *command],
                env=whole,
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, number: int) -> str:
        return self._folders[number].with_suffix(".log").read_text()

    def close(self) -> None:
        super().close()
        for process in self._started:
            process.wait()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".log").unlink(missing_ok=True)
