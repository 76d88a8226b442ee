"""The delays of everything that asks a server again."""

from hypothesis import given
from hypothesis import strategies as st

from leap.backoff import backoff, retry_after


@given(tries=st.integers(1, 200), first=st.floats(0, 1000), longest=st.floats(0, 10_000))
def test_a_delay_is_random_below_a_limit_that_doubles(tries: int, first: float, longest: float) -> None:
    limit = min(first * 2 ** (tries - 1), longest)
    drawn = {backoff(tries, first, longest) for _ in range(5)}
    assert all(0 <= seconds <= limit for seconds in drawn)
    assert len(drawn) > 1 or limit < 1e-300


WORDS = (
    "Mon, 1 31 Jan Dec 0001 9999 99999 999999999999999999999 00:00:00 24:60:61 GMT EST +2359 -9999 +999999999999 - :"
)
DATES = st.lists(st.sampled_from(WORDS.split()), max_size=8).map(" ".join)


@given(asked=DATES | st.text(max_size=30) | st.integers().map(str) | st.floats().map(str), date=DATES)
def test_whatever_a_server_asks_for_is_a_number_of_seconds(asked: str, date: str) -> None:
    assert retry_after({"retry-after": asked, "date": date}) >= 0.0
