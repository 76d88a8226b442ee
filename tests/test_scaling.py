"""The model of cost: the page shows what the script computes, which agrees with the two GPUs that were measured."""

import pytest
import scaling
from conftest import REPOSITORY


@pytest.fixture(scope="module")
def model() -> scaling.Model:
    return scaling.Model(scaling.read_results())


@pytest.mark.parametrize(("page", "chinese"), [("scaling.md", False), ("scaling_zh.md", True)])
def test_the_page_shows_what_the_script_computes(model: scaling.Model, page: str, chinese: bool) -> None:
    text = (REPOSITORY / "docs" / page).read_text()
    assert text.count("<!-- end -->") == len(scaling.TABLES)
    assert all(f"<!-- {name} -->" in text for name in scaling.TABLES)
    assert scaling.filled(text, scaling.tables(model, chinese)) == text, "python benchmarks/scaling.py --write"


def test_two_gpus_are_computed_as_they_were_measured(model: scaling.Model) -> None:
    """Within 2 %, and never faster: what is hidden of the communication is left out."""
    computed = 2 * scaling.STEP_SAMPLES / model.step(2, scaling.STEP_SAMPLES)
    assert 0.98 * model.measured.two_gpus <= computed <= model.measured.two_gpus


def test_one_gpu_is_the_measured_one(model: scaling.Model) -> None:
    assert model.all_reduce(1) == 0
    assert model.step(1, scaling.STEP_SAMPLES) == pytest.approx(model.measured.step)


def test_gradients_go_once_through_a_ring_and_each_share_between_nodes(model: scaling.Model) -> None:
    """2 (n - 1) / n of them within a node; of eight GPUs' eighths 2 (m - 1) / m."""
    assert model.all_reduce(2) == pytest.approx(model.measured.all_reduce)
    assert model.all_reduce(8) / model.all_reduce(2) == pytest.approx(1.75)
    two, four = (model.all_reduce(8 * nodes) - model.all_reduce(8) for nodes in (2, 4))
    assert four / two == pytest.approx(1.5)


def test_checkpoints_that_come_too_fast_are_waited_for(model: scaling.Model) -> None:
    """At a step of 0.1 s, 200 of them are shorter than a checkpoint's writing."""
    slow, fast = (scaling.Model(model.measured, scaling.Assumed(network=rate)) for rate in (1e6, 1e15))
    assert scaling.SAVE_STEPS * fast.step(32, 1) < model.measured.write < scaling.SAVE_STEPS * slow.step(32, 1)
    steps = 10 * scaling.SAVE_STEPS
    data = 32 * steps // scaling.EPOCHS
    unwaited, others = (one.training(data, 32, 1, 32) - steps * one.step(32, 1) for one in (slow, fast))
    waited = 9 * (model.measured.write - scaling.SAVE_STEPS * fast.step(32, 1))
    assert others - unwaited == pytest.approx(waited)
