"""The delays of everything that asks a server again."""

from hypothesis import given
from hypothesis import strategies as st

from leap.backoff import backoff


@given(tries=st.integers(1, 200), first=st.floats(0, 1000), longest=st.floats(0, 10_000))
def test_a_delay_is_random_below_a_limit_that_doubles(tries: int, first: float, longest: float) -> None:
    limit = min(first * 2 ** (tries - 1), longest)
    drawn = {backoff(tries, first, longest) for _ in range(5)}
    assert all(0 <= seconds <= limit for seconds in drawn)
    assert len(drawn) > 1 or limit < 1e-300
