"""How many requests a server gets at once, and when it gets none: learnt from its own answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Throttle:
    """At most `cap` requests at once: half as many when the server is asked too much, one more for each full round.

    Only for use within one event loop.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._slots = anyio.CapacityLimiter(cap)
        self._open_at = 0.0  # on the event loop's clock
        self._answered = 0  # since the last change
        self._halvings = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Wait until one more request may be sent. The value goes to `slow_down` if the server refuses it."""
        while True:
            await anyio.sleep_until(self._open_at)  # outside, so that nobody sleeps on a slot
            async with self._slots:
                if anyio.current_time() >= self._open_at:  # it may have closed while we waited for the slot
                    yield self._halvings
                    return

    def pause(self, seconds: float) -> None:
        """Nothing is sent for so long."""
        self._open_at = max(self._open_at, anyio.current_time() + seconds)

    def slow_down(self, halvings: int) -> None:
        """Halve, once for all requests that were sent under the same number."""
        if halvings == self._halvings:
            self._halvings += 1
            self._set(int(self._slots.total_tokens) // 2)

    def speed_up(self) -> None:
        """A request was answered."""
        self._answered += 1
        if self._answered >= self._slots.total_tokens:
            self._set(int(self._slots.total_tokens) + 1)

    def _set(self, number: int) -> None:
        self._slots.total_tokens = min(max(number, 1), self._cap)
        self._answered = 0
