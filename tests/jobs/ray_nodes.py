"""Ray nodes on one machine, each with an address, a host name and processes of its own: network namespaces."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from conftest import PYTHONPATH, REPOSITORY

HEAD = "10.78.0.1"
PORT = 6399


class RayNodes:
    """Two namespaces with a cable between them. Ray's first node is in the first, and so is what `start` starts."""

    def __init__(self) -> None:
        self.names = [f"ray-{os.getpid()}-{number}" for number in range(2)]
        self.address = f"{HEAD}:{PORT}"
        self._started: list[subprocess.Popen[bytes]] = []
        self._folders = [Path("/tmp") / name for name in self.names]  # Ray's sockets need short paths

    def connect(self) -> bool:
        """Whether this machine lets us."""
        first, second = self.names
        cable = f"ip link add veth0 netns {first} type veth peer name veth0 netns {second}"
        plugged = [f"ip -n {name} addr add 10.78.0.{number}/24 dev veth0" for number, name in enumerate(self.names, 1)]
        up = [f"ip -n {name} link set {link} up" for name in self.names for link in ("lo", "veth0")]
        commands = [f"ip netns add {first}", f"ip netns add {second}", cable, *plugged, *up]
        if shutil.which("ip") is None:
            return False
        return all(subprocess.run(line.split(), capture_output=True, check=False).returncode == 0 for line in commands)

    def add(self, number: int, cpus: int) -> None:
        """Start Ray there, and return when it runs."""
        role = f"--head --port {PORT}" if number == 0 else f"--address {self.address}"
        own = f"--node-ip-address 10.78.0.{number + 1} --num-cpus {cpus} --temp-dir {self._folders[number]}"
        shared = "--object-store-memory 80000000 --disable-usage-stats --block"
        dashboard = "--include-dashboard false" * (number == 0)
        words = f"{role} {own} {shared} {dashboard}".split()
        process = self.start(number, [sys.executable, "-m", "ray.scripts.scripts", "start", *words])
        while "Ray runtime started" not in self.log(number):
            assert process.poll() is None, self.log(number)
            time.sleep(0.1)

    def start(self, number: int, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        inside = ["ip", "netns", "exec", self.names[number], "unshare", "--uts", "sh", "-c"]
        inside += [f'hostname node-{number} && exec "$@"', "-"]
        whole = {**os.environ, "PYTHONPATH": PYTHONPATH, "RAY_AUTH_MODE": "disabled", **environment}
        log = self._folders[number].with_suffix(".log")
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*inside, *command], env=whole, cwd=REPOSITORY, stdout=output, stderr=output, start_new_session=True
            )
        self._started.append(process)
        return process

    def kill(self, number: int) -> None:
        """All processes of a node at once, as when its power goes."""
        while found := self.processes(number):
            subprocess.run(["kill", "-9", *map(str, found)], capture_output=True, check=False)

    def processes(self, number: int) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.names[number]], capture_output=True, text=True, check=True)
        return list(map(int, listed.stdout.split()))

    def log(self, number: int) -> str:
        return self._folders[number].with_suffix(".log").read_text()

    def close(self) -> None:
        for number, name in enumerate(self.names):
            if Path("/run/netns", name).exists():
                self.kill(number)
                subprocess.run(["ip", "netns", "del", name], check=False)
        for process in self._started:
            process.wait()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".log").unlink(missing_ok=True)
