"""Two hosts on one machine: network namespaces with a cable between them, each with a host name of its own."""

import os
import shutil
import subprocess
from pathlib import Path

NOT_HERE = "network namespaces need root, and ip of iproute2"


class TwoHosts:
    """`name` begins the namespaces' names, `network` their addresses: "10.77.0" has 10.77.0.1 and 10.77.0.2."""

    def __init__(self, name: str, network: str) -> None:
        self.names = [f"{name}-{os.getpid()}-{number}" for number in range(2)]
        self.addresses = [f"{network}.{number}" for number in (1, 2)]

    def connect(self) -> bool:
        """Whether this machine lets us."""
        first, second = self.names
        cable = f"ip link add veth0 netns {first} type veth peer name veth0 netns {second}"
        pairs = zip(self.names, self.addresses, strict=True)
        plugged = [f"ip -n {name} addr add {address}/24 dev veth0" for name, address in pairs]
        up = [f"ip -n {name} link set {link} up" for name in self.names for link in ("lo", "veth0")]
        commands = [f"ip netns add {first}", f"ip netns add {second}", cable, *plugged, *up]
        if shutil.which("ip") is None:
            return False
        return all(subprocess.run(line.split(), capture_output=True, check=False).returncode == 0 for line in commands)

    def inside(self, number: int, first: str = "true") -> list[str]:
        """What stands before a command of that host; `first` is a line of sh that runs before it."""
        whole = f'hostname node-{number} && {first} && exec "$@"'
        return ["ip", "netns", "exec", self.names[number], "unshare", "--uts", "sh", "-c", whole, "-"]

    def unplug(self) -> None:
        subprocess.run(f"ip -n {self.names[0]} link set veth0 down".split(), check=True)

    def processes(self, number: int) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.names[number]], capture_output=True, text=True, check=True)
        return list(map(int, listed.stdout.split()))

    def kill(self, number: int) -> None:
        """All processes of a host at once, as when its power goes."""
        while found := self.processes(number):
            subprocess.run(["kill", "-9", *map(str, found)], capture_output=True, check=False)

    def close(self) -> None:
        for number, name in enumerate(self.names):
            if Path("/run/netns", name).exists():
                self.kill(number)
                subprocess.run(["ip", "netns", "del", name], check=False)
