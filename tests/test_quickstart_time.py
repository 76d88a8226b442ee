"""quickstart.sh's stages are timed by what it prints, on two sides, and compared where both have them."""

import argparse
import os
import re
from pathlib import Path

import pytest
import quickstart_time
from conftest import REPOSITORY
from make_readme import table

from leap.errors import LeapError
from leap.records.json_files import write_json

SCRIPT = (REPOSITORY / "quickstart.sh").read_text()
TITLES = re.findall(r'^(?:stage|beside) "(.+?)"', SCRIPT, re.MULTILINE)


def with_stages(folder: Path, *stages: str) -> Path:
    """The folder, with a quickstart.sh whose stages are these, run and printed as the real one does."""
    own = "\n".join(re.findall(r"^stages=\(\)$|^stage\(\) \{.*?^\}$|^printf '\\n== done.*?$", SCRIPT, re.M | re.S))
    head, end = own.rsplit("\n", 1)
    (folder / "quickstart.sh").write_text("\n".join(["set -euo pipefail", head, *stages, end]))
    return folder


def timed(folder: Path, limit: float | None = None) -> dict[str, float]:
    return quickstart_time.run_stages(folder, dict(os.environ), limit)


def test_stages_are_timed_one_by_one(tmp_path: Path) -> None:
    seconds = timed(with_stages(tmp_path, 'stage "set up" sleep 0.2', 'stage "one" sleep 0.6', 'stage "two" true'))
    assert list(seconds) == ["one", "two"]
    assert seconds["one"] >= 0.6
    assert seconds["two"] < seconds["one"]


def test_a_stage_that_the_limit_ends_does_not_count(tmp_path: Path) -> None:
    stages = 'stage "one" sleep 0.3', 'stage "two" sleep 600', 'stage "three" true'
    assert list(timed(with_stages(tmp_path, *stages), limit=2)) == ["one"]


def test_a_quickstart_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(LeapError, match=r"exit code 7: \n== one\nthe reason"):
        timed(with_stages(tmp_path, 'stage "one" bash -c "echo the reason >&2; exit 7"'))


def test_parts_of_what_is_one_stage_now_are_added_when_all_ended() -> None:
    plans, rubric = quickstart_time.NOW
    starts = [("draw", 0.0), (plans, 2.0), (rubric, 5.0)]
    assert quickstart_time.stage_seconds(starts) == {"draw": 2.0}
    assert quickstart_time.stage_seconds([*starts, ("done in 6 s", 6.5)]) == {"draw": 2.0, quickstart_time.REVIEW: 4.5}


def test_older_titles_are_mapped_to_stages_that_there_are() -> None:
    assert len(TITLES) == 10
    assert set(quickstart_time.NOW.values()) <= set(TITLES)
    assert not set(quickstart_time.NOW) & set(TITLES)


def test_the_result_compares_what_both_have_and_is_a_row_of_the_page(tmp_path: Path) -> None:
    arguments = argparse.Namespace(name="", before=tmp_path, rounds=3, limit=None)
    ours = [{"draw": 3.0, "fine-tune": value, "report": 9.0} for value in (10.0, 40.0, 12.0)]
    before = [{"draw": 6.0, "fine-tune": value, "look": 9.0} for value in (24.0, 23.0, 90.0)]
    texts = {"ours": {1: "a", 2: "b", 3: "c"}, "before": {1: "a", 2: "x", 4: "c"}}
    found = quickstart_time.as_result(arguments, {"ours": ours, "before": before}, texts)
    assert found["stages"]["fine-tune"] == {"ours": 12.0, "before": 24.0, "ratio": 2.0}
    assert (found["ours"], found["seed_setting"], found["ratio"]) == (15.0, 30.0, 2.0)
    assert found["only"] == {"ours": {"report": 9.0}, "before": {"look": 9.0}}
    assert found["parity"] == {"same_text": 1, "of": 2}
    write_json(tmp_path / "quickstart_time-CPU.json", {**found, "commit": "0123456789"})
    assert "fine-tune, times as fast 2.00; 2.0 times as fast as an older commit's (30.00)" in table(tmp_path)
