"""Ranks are started by torchrun, and every flag after the script is the script's."""

from torch.distributed.run import parse_args

from leap.launch import torchrun_words


def test_a_script_s_flags_are_its_own():
    flags = ["--start", "model", "--log", "file", "--master", "x"]
    parsed = parse_args(torchrun_words(2, ["script.py", *flags]))
    assert parsed.training_script == "script.py"
    assert parsed.training_script_args == flags
    assert parsed.standalone
    assert parsed.nproc_per_node == "2"
