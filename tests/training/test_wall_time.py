"""Where a run's time goes: the parts make up the whole, and steady speed is that of the steps alone."""

import pytest

from leap.training.wall_time import WallTime, summary, throughput


class Clock:
    """Seconds that only the test lets pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_of(steps: int, first: float = 30.0) -> WallTime:
    """Loading for 5 s; steps of 2 s, the first one `first`, each after half a second of waiting; a log every second."""
    clock = Clock()
    wall = WallTime(clock)
    clock.now += 5
    wall.begin(on_gpu=False)
    for step in range(1, steps + 1):
        with wall.waiting_for_data():
            clock.now += 0.5
        clock.now += first if step == 1 else 2
        if step % 2 == 0:
            wall.synchronised(step)
    with wall.spent("validation"):
        clock.now += 7
    with wall.spent("saving"):
        clock.now += 3
    return wall


def test_the_parts_are_the_whole() -> None:
    session = run_of(10).session(first_step=4, steps=10, samples=360)
    assert session["spent"] == {
        "starting": 5.0, "data": 5.0, "validation": 7.0, "saving": 3.0, "compiling": 28.0, "training": 20.0,
    }  # fmt: skip
    assert session["seconds"] == sum(session["spent"].values()) == 68
    assert (session["first_step"], session["steps"], session["rows"]) == (4, 10, 360)


@pytest.mark.parametrize(("steps", "first"), [(2, 30.0), (10, 0.5)])
def test_compiling_is_not_guessed(steps: int, first: float) -> None:
    """Nor is it less than nothing: of two steps nobody knows which was slow, and a first one may be quick."""
    session = run_of(steps, first).session(0, steps, 1)
    assert session["spent"]["compiling"] == 0
    assert session["seconds"] == sum(session["spent"].values())


def test_sessions_are_added_up() -> None:
    sessions = [run_of(10).session(0, 10, 360), run_of(10).session(10, 10, 360)]
    found = throughput(sessions)
    assert found["steady_rows_per_second"] == 18
    assert found["rows_per_second"] == pytest.approx(720 / 136, abs=1e-3)
    assert found["seconds_per_step"] == 6.8
    assert found["spent"]["saving"] == 6
    assert found["sessions"] == sessions
    assert summary(sessions) == (
        "speed       18.0 samples/s while training, 5.3 over the whole run of 720 samples in 2 min 16 s: "
        "compiling 56.0 s, validation 14.0 s, starting 10.0 s, data 10.0 s, saving 6.0 s"
    )


def test_a_start_without_a_step_has_no_speed() -> None:
    clock = Clock()
    session = WallTime(clock).session(4, 0, 0)
    assert throughput([session])["rows_per_second"] is None
    assert "0.0 samples/s" in summary([session])
