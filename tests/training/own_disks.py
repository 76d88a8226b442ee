"""A rank on a node with a disk of its own, which keeps one checkpoint. `test_checkpoint_writer.py` runs two of them:

RANK=0 WORLD_SIZE=2 ... python tests/training/own_disks.py FOLDER

Rank 1 is killed while it writes the third one, which by then is whole on rank 0's disk.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from test_checkpoint_writer import made_training
from torch import distributed, zeros
from transformers import TrainerState

from leap.models.checkpoints import find_checkpoints
from leap.training import checkpoint_writer
from leap.training.checkpoint_writer import CheckpointWriter
from leap.training.checkpointing import LossSum
from leap.training.ranks import Ranks

STEPS = (2, 4, 6)


def main(folder: Path) -> None:
    training = made_training(folder / "model")  # with which the ranks find each other
    ranks, run = Ranks(), folder / str(distributed.get_rank())
    assert ranks.share(run) == 2
    original, first = checkpoint_writer.save_weights, folder / "0" / "checkpoint-6"

    def save_weights(*arguments: Any) -> None:
        if run.name == "1" and checkpoint_writer.partial_folder(run / "checkpoint-6").is_dir():
            while not first.is_dir():
                time.sleep(0.01)
            time.sleep(1)  # in which rank 0 removes what it no longer keeps
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments)

    checkpoint_writer.save_weights = save_weights
    with CheckpointWriter(training, run, {}, 1, ranks) as writer:
        for step in STEPS:
            writer.save(TrainerState(global_step=step), LossSum(zeros(())))
            writer.finish()
            assert [one.name for one in find_checkpoints(run)] == [f"checkpoint-{step}"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
