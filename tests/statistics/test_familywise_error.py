"""Nothing that is alike is called different, in sweeps and ablations; at length: benchmarks/familywise_error.py."""

import familywise_error
import pytest

from leap.statistics.comparison import run_difference


@pytest.mark.slow
def test_alike_models_and_methods_get_no_dagger() -> None:
    """60 tables of each kind: 5 % and three standard errors are 13.4 %."""
    found = familywise_error.simulate(60, sweeps=(5,))
    assert found["sweep_5"] <= 13.4 < found["sweep_5_before"]
    assert found["ablation_3_seeds"] <= 13.4 < found["ablation_one_seed_before"]
    assert found["power_ablation_3_seeds_mean"] > 50
    assert found["power_sweep_5_mean"] > 10


def test_one_run_or_runs_without_spread_have_no_p() -> None:
    for ours, theirs in (([40.0], [30.0, 31.0]), ([40.0, 40.0], [30.0, 30.0])):
        difference, *rest = run_difference(ours, theirs)
        assert difference == pytest.approx(10 if theirs[-1] == 30 else 9.5)
        assert all(value != value for value in rest)
    assert run_difference([40.0, 41.0, 42.0], [30.0, 31.0, 30.0]).p < 0.01


@pytest.mark.filterwarnings("error")
def test_runs_that_are_alike_are_no_warning() -> None:
    found = run_difference([40.0, 41.0, 42.0], [30.1, 30.1, 30.1])
    assert found.low < found.difference < found.high
