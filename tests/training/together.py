"""Several training commands, one after the other, in processes that start once. `test_sharding.py` runs it:

torchrun --standalone --nproc_per_node 2 tests/training/together.py WORKSPACE COMMANDS.json RESULTS.json

A command is a list of run-finetuning.py's options; its result is what the first process wrote to stderr.
"""

import json
import sys
from pathlib import Path

from conftest import run_script
from sharded_state import leave
from torch import distributed

FINETUNE = "scripts/training/run-finetuning.py"


def main(workspace: Path, commands: Path, results: Path) -> None:
    message = []
    for options in json.loads(commands.read_text()):
        done = run_script(FINETUNE, *options, root=workspace)
        assert done.returncode == 0, f"{options}: {done.stderr}"
        message.append(done.stderr)
    if distributed.get_rank() == 0:
        results.write_text(json.dumps(message))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
    leave()
