"""How many tokens something took, as others count them."""

from typing import Annotated, Any

from pydantic import BeforeValidator

_MOST = 10**12  # of one request; beyond it, costs and sums are no numbers any more


def _possible(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST else None


TokenCount = Annotated[int | None, BeforeValidator(_possible)]
"""None where nobody has counted. A count that no request can have (negative, beyond 10^12, no number) is none either:
taken as it stands, it would lower what was spent."""
