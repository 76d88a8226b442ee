"""When to ask a server again: the one rule of everything here that talks to one."""

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_DOUBLINGS = 30  # at most: a power of thousands of tries is no number
LONGEST_PAUSE = 3600.0  # seconds that a server may ask us to wait; for more, the run ends and another goes on later


def backoff(tries: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failed tries: at random, up to a limit that doubles from `first` to `longest`.

    Source: "full jitter" of "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(first * 2.0 ** min(tries - 1, _DOUBLINGS), longest))


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait, as a number or as a date; 0 where it does not say."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    until, now = _date(value), _date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds()) if until else 0.0


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # no date, or one with more digits than a date can have
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
