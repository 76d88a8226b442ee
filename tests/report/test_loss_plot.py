"""When a run's curve is drawn: training waits for it."""

from types import SimpleNamespace

import pytest

from leap.report import loss_plot
from leap.report.loss_plot import LossPlot


@pytest.mark.parametrize(("between", "drawing"), [(0.1, 0.4), (10, 0.4), (60, 3)])
def test_saves_draw_for_a_small_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch, between: float, drawing: float
) -> None:
    """Seconds `between` saves, and of one drawing."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(loss_plot, "time", SimpleNamespace(monotonic=lambda: clock.now))
    plot, drawn = LossPlot(), list[float]()

    def draw(args: object, state: object) -> None:
        clock.now += drawing
        drawn.append(clock.now)

    monkeypatch.setattr(plot, "_draw", draw)
    for _ in range(300):
        clock.now += between
        plot.on_save(None, None, None)
    at_saves = len(drawn)
    assert drawing * at_saves <= 0.02 * (clock.now - 1000) + drawing
    assert at_saves >= 0.6 * min(300, 0.02 * 300 * between / drawing) - 2
    plot.on_train_end(None, None, None)
    assert len(drawn) == at_saves + 1
