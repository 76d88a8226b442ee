"""What ranks exchange on the CPU, beside the traffic between their accelerators."""

import os
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from leap.environment import world_size
from leap.errors import LeapError, first_line

# One rank may check 150,000 samples while another finds them checked; a rank that ends is reported by torchrun at once.
_TIMEOUT = timedelta(days=1)


def join() -> None:
    """Let the ranks that torchrun started find each other, as the Trainer would later. Alone, nothing happens."""
    if world_size() == 1:
        return
    from accelerate import PartialState

    try:
        PartialState(cpu=not torch.cuda.is_available())
    except (RuntimeError, ValueError, OSError) as error:  # an address that nobody has, a port that is taken
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise LeapError(f"the {world_size()} ranks do not find each other at {place} ({first_line(error)})") from error


class Ranks:
    """Agreement of all ranks; alone, each call answers at once. All ranks make the same calls in one order."""

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        # gloo: its messages are between CPUs, so that nothing waits for a GPU's queue of work.
        self._group: Any = distributed.new_group(backend="gloo", timeout=_TIMEOUT) if together else None
        self._asked: tuple[Any, torch.Tensor] | None = None

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of their ranks. Waits for all."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(values, value, group=self._group)
        return values

    def first(self, value: Any) -> Any:
        """The value of rank 0, in every rank."""
        return self.gather(value)[0]

    def same(self, what: str, value: Any) -> None:
        """Raises LeapError in every rank where `value`, which decides a run's shape, is not the same in all of them.

        Ranks that divide a step differently would train some samples twice and others never, without an error.
        """
        values = self.gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise LeapError(
                    f"{what}: rank 0 has {values[0]}, rank {rank} has {other}: all ranks need the same files, code and "
                    "recipe; look at both machines"
                )

    def largest(self, value: int) -> int:
        """The largest of all ranks' values; of several ranks, of those given at the last call.

        So nobody waits: the answer to the last call has come while the step between was computed.
        """
        if self._group is None:
            return value
        known = self._answer()
        mine = torch.tensor([value])
        work = distributed.all_reduce(mine, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._asked = (work, mine)
        return known

    def _answer(self) -> int:
        if self._asked is None:
            return 0
        work, value = self._asked
        work.wait()
        self._asked = None
        return int(value)

    def close(self) -> None:
        """Let the last question be answered before a rank ends."""
        self._answer()
