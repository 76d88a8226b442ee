"""What the benchmark of learning from rewards makes of its runs' results."""

from pathlib import Path

import pytest
import reinforcement
from test_grounded_report import write_result

from leap.vlabench.dimensions import NAMES

BEST, MORE = "the best of 8", "further supervised training"
RUNS = {"start": ["start"], BEST: ["rft_1", "rft_2"], MORE: ["supervised_1", "supervised_2"]}
GROUNDED = {"start": 40.0, "rft_1": 60.0, "rft_2": 50.0, "supervised_1": 45.0, "supervised_2": 43.0}


@pytest.fixture
def found(tmp_path: Path) -> dict:
    for model, mean in GROUNDED.items():
        for dimension in NAMES:
            write_result(tmp_path, model, dimension, [mean - 10, mean + 10])
            write_result(tmp_path, f"{model}_swapped", dimension, [mean / 2, mean / 2])
    return reinforcement.results(tmp_path, RUNS, [BEST])


def test_arms_are_means_over_seeds_and_paired_with_the_start_and_with_each_other(found: dict) -> None:
    assert {name: found["grounded"][name] for name in RUNS} == {"start": 40.0, BEST: 55.0, MORE: 44.0}
    assert found["grounded"][f"{BEST}, other images"] == 27.5
    differences = {name: row["difference"] for name, row in found["comparisons"].items()}
    assert differences == {f"{BEST} - start": 15.0, f"{MORE} - start": 4.0, f"{BEST} - {MORE}": 11.0}
    assert found["runs"]["rft_2"]["grounded"] == 50.0


@pytest.mark.parametrize(("sampled", "panels"), [({}, 2), ({BEST: [20.0, 30.0, 40.0, 50.0]}, 3)])
def test_the_figure_has_a_curve_where_an_arm_logged_one(found: dict, sampled: dict, panels: int) -> None:
    drawn = reinforcement.figure({**found, "sampled": sampled})
    assert len(drawn.axes) == panels
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == [MORE, BEST]


def test_as_many_labels_as_arms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["reinforcement.py", "--arms", "rft", "supervised", "--labels", BEST])
    with pytest.raises(SystemExit) as ended:
        reinforcement.main()
    assert ended.value.code == 2
    assert "--labels: one for each of the 2 arms" in capsys.readouterr().err
