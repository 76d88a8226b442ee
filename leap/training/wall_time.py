"""Where a run's time goes: what its steps take, and what it waits for beside them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from leap.progress import duration
from leap.provenance import now

SESSIONS = (
    "sessions"  # of a TrainerState's `stateful_callbacks`: with them the starts before this one are in checkpoints
)
_BESIDE = ("starting", "data", "validation", "saving")  # what is measured; compiling and training are the rest


class WallTime:
    """The seconds of one start of a run, from the loading of its model on, in this rank.

    `clock` gives seconds. Kernels run behind the host, so that the host's waiting for data is none of the GPU: there
    two events around it say how long the GPU had nothing to do.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started, self._since = clock, clock(), now()
        self._seconds = dict.fromkeys(_BESIDE, 0.0)
        self._waits: list[tuple[Any, Any]] = []
        self._first: tuple[int, float] | None = None  # steps, and what they took
        self._on_gpu = False

    def begin(self, on_gpu: bool) -> None:
        """The first step begins."""
        self._on_gpu = on_gpu
        self._seconds["starting"] = self._clock() - self._started

    @contextmanager
    def spent(self, what: str) -> Iterator[None]:
        """Time for what stands in `_BESIDE`. The device must have no work left as it begins."""
        started = self._clock()
        try:
            yield
        finally:
            self._seconds[what] += self._clock() - started

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Around what fetches a step's batches."""
        before = self._moment()
        yield
        self._waits.append((before, self._moment()))

    def _moment(self) -> Any:
        if not self._on_gpu:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def synchronised(self, steps: int) -> None:
        """So many steps of this start are done, on the device too."""
        for before, after in self._waits:
            self._seconds["data"] += before.elapsed_time(after) / 1000 if self._on_gpu else after - before
        self._waits.clear()
        self._first = self._first or (steps, self._training(self._clock() - self._started))

    def _training(self, total: float) -> float:
        return total - sum(self._seconds.values())

    def session(self, first_step: int, steps: int, samples: int) -> dict[str, Any]:
        """This start, from step `first_step` on, after so many `steps` and `samples`: all its seconds, by what they
        were for.

        "compiling" is how much longer the steps up to the first log entry took than as many later ones; "training" is
        what remains. `steady_rows_per_second` is of the latter, `rows_per_second` of all.
        """
        total = self._clock() - self._started
        training, compiling = self._training(total), 0.0
        if self._first and steps > self._first[0]:
            first, took = self._first
            compiling = max(0.0, took - first * (training - took) / (steps - first))
        training -= compiling
        spent = {**self._seconds, "compiling": compiling, "training": training}
        return {
            "start": self._since,
            "first_step": first_step,
            "steps": steps,
            "rows": samples,
            "seconds": round(total, 2),
            "spent": {name: round(seconds, 2) for name, seconds in spent.items()},
        }


def throughput(sessions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of a run's starts together: samples a second of its steps alone and of all its time, and where that went."""
    steps, samples, seconds = (sum(one[name] for one in sessions) for name in ("steps", "rows", "seconds"))
    names = sessions[0]["spent"] if sessions else ()
    spent = {name: round(sum(one["spent"][name] for one in sessions), 2) for name in names}
    training = spent.get("training")
    return {
        "steady_rows_per_second": round(samples / training, 3) if training else None,
        "rows_per_second": round(samples / seconds, 3) if seconds else None,
        "seconds_per_step": round(seconds / steps, 3) if steps else None,
        "spent": spent,
        "sessions": list(sessions),
    }


def summary(sessions: Sequence[dict[str, Any]]) -> str:
    """The same in one line, for a person."""
    found = throughput(sessions)
    spent = sorted(found["spent"].items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in spent if name != "training")
    samples, seconds = (sum(one[name] for one in sessions) for name in ("rows", "seconds"))
    return (
        f"speed       {found['steady_rows_per_second'] or 0:.1f} samples/s while training, "
        f"{found['rows_per_second'] or 0:.1f} over the whole run of {samples:,} samples in {duration(seconds)}: {parts}"
    )
