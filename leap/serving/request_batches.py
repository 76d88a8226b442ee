"""An engine in this process, asked by many at once: what waits is answered as one batch."""

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from leap.errors import LeapError
from leap.inference.protocol import Decoding, Engine, Request, Response

_TO_END = 5.0  # seconds for the batch that is being answered


@dataclass(eq=False)
class _Job:
    request: Request
    decoding: Decoding
    answered: "Future[Response]" = field(default_factory=Future)


class Batches:
    """One thread asks the engine: a model is in one forward pass at a time.

    Nothing waits for company: a request that finds the engine idle is answered alone, and whatever comes meanwhile and
    is decoded alike is the next batch.
    """

    def __init__(self, engine: Engine, rows: int) -> None:
        self._engine, self._rows = engine, rows
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.failure: BaseException | None = None  # what ended the engine: no request is to blame for it
        self._thread = threading.Thread(target=self._answer_all, name="engine", daemon=True)
        self._thread.start()

    def ask(self, request: Request, decoding: Decoding) -> "Future[Response]":
        """Requests of one key are taken for the same, and answered once."""
        job = _Job(request, decoding)
        with self._changed:
            if self._closed or self.failure:
                raise LeapError("the engine has ended")
            self._waiting.append(job)
            self._changed.notify()
        return job.answered

    def close(self) -> bool:
        """Give up what waits; whether the engine came to rest."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify()
        for job in waiting:
            job.answered.cancel()
        self._thread.join(_TO_END)
        return not self._thread.is_alive()

    def _answer_all(self) -> None:
        while batch := self._next():
            try:
                self._answer(batch)
            except BaseException as error:  # noqa: BLE001  (the service ends with it: see `failure`)
                self.failure = error
                with self._changed:
                    batch += self._waiting
                for job in batch:
                    if not job.answered.done():
                        job.answered.set_exception(LeapError(f"the engine failed: {error}"))
                return

    def _next(self) -> list[_Job]:
        """The oldest job and those that can be answered with it; none when all is over."""
        with self._changed:
            while not self._closed:
                alike = [job for job in self._waiting if job.decoding == self._waiting[0].decoding][: self._rows]
                self._waiting = deque(job for job in self._waiting if job not in alike)
                # Those whose clients have gone are left out.
                if batch := [job for job in alike if job.answered.set_running_or_notify_cancel()]:
                    return batch
                if not alike:
                    self._changed.wait()
        return []

    def _answer(self, batch: list[_Job]) -> None:
        askers: dict[tuple[str, ...], list[_Job]] = {}
        for job in batch:
            askers.setdefault(job.request.key, []).append(job)
        requests = [jobs[0].request for jobs in askers.values()]
        for response in self._engine.responses(requests, batch[0].decoding):
            for job in askers[response.key]:
                job.answered.set_result(response)
