"""What two ranks find out about each other. `test_nodes.py` runs it:

python -m torch.distributed.run --standalone --nproc_per_node 2 tests/training/agreeing_ranks.py FOLDER
"""

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from test_checkpointing import made
from torch import distributed

from leap.errors import LeapError
from leap.models.checkpoints import find_checkpoints
from leap.training.ranks import Ranks, naming_lost_ranks
from leap.training.resume import agree_on_resume


def check(folder: Path, number: int) -> None:
    ranks, own, host = Ranks(), folder / str(number), socket.gethostname()
    assert ranks.share(folder / "shared") == 1
    assert ranks.writes == (number == 0)
    assert ranks.share(own) == 2
    assert ranks.writes

    for step in (2, 4) if number == 0 else (2,):
        made(own, step)
    assert agree_on_resume(own, find_checkpoints(own)[-1], ranks) == own / "checkpoint-2"
    if number == 1:
        shutil.rmtree(own / "checkpoint-2")
    newest = find_checkpoints(own)[-1] if number == 0 else None
    with pytest.raises(LeapError, match=rf"rank 0 on {host} has checkpoint-4, rank 1 on {host} has None"):
        agree_on_resume(own, newest, ranks)
    assert agree_on_resume(folder / "empty", None, ranks) is None

    ranks.same("this run", {"recipe": {"seed": 1}})
    with pytest.raises(LeapError, match=r"this run: recipe, seed: rank 0 on \S+ has 0, rank 1 on \S+ has 1"):
        ranks.same("this run", {"data": "d", "recipe": {"lr": 1, "seed": number}})
    with pytest.raises(LeapError, match=r"files: b: rank 0 on \S+ has nothing, rank 1 on \S+ has 1"):
        ranks.same("files", {"a": 0, **({"b": 1} if number else {})})

    if number == 1:
        os._exit(0)
    with pytest.raises(LeapError, match=rf"rank 0 on {host}: another rank has ended"), naming_lost_ranks(60):
        ranks.wait()
    os._exit(0)  # nobody is left to leave with


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    check(Path(sys.argv[1]), distributed.get_rank())
