"""Ranks are started by torchrun, and every flag after the script is the script's."""

import pytest
from torch.distributed.run import parse_args

from leap.errors import LeapError, UsageError
from leap.launch import _rendezvous, interface_to, torchrun_words


def test_a_script_s_flags_are_its_own():
    flags = ["--start", "model", "--log", "file", "--master", "x"]
    parsed = parse_args(torchrun_words(2, ["--standalone"], ["script.py", *flags]))
    assert parsed.training_script == "script.py"
    assert parsed.training_script_args == flags
    assert parsed.standalone
    assert parsed.nproc_per_node == "2"


def test_nodes_meet_at_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    for name, value in {"NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"}.items():
        monkeypatch.setenv(name, value)
    parsed = parse_args(torchrun_words(8, _rendezvous(2), ["script.py"]))
    assert (parsed.nnodes, parsed.node_rank, parsed.nproc_per_node) == ("2", 1, "8")
    assert (parsed.master_addr, parsed.master_port, parsed.rdzv_backend) == ("127.0.0.1", 1234, "static")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "needs NODE_RANK and MASTER_ADDR"),
        ({"NODE_RANK": "2", "MASTER_ADDR": "127.0.0.1"}, "nodes count from 0"),
        ({"NODE_RANK": "first", "MASTER_ADDR": "127.0.0.1"}, "NODE_RANK: 'first'"),
        ({"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "MASTER_PORT: 'x'"),
    ],
)
def test_a_node_that_is_not_said_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        _rendezvous(2)


def test_the_interface_to_a_host_is_found() -> None:
    assert interface_to("127.0.0.1") is None  # loopback, which no other node reaches
    with pytest.raises(LeapError, match="MASTER_ADDR=no such host: this machine does not reach it"):
        interface_to("no such host")
