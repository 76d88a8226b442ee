"""Results as inspect_ai's logs: its own library reads back what was there. Skipped where that is not installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import run_script
from test_report_page import data_of, make_results, right, sources

from leap.report.page.build_page import build
from leap.report.page.inspect_log import write_inspect_logs
from leap.vlabench.dimensions import NAMES, find_dimension
from leap.vlabench.examples import find_examples

MODELS = ["Baseline", "checkpoint-5", "checkpoint-5_swapped"]
INSTALLED = find_spec("inspect_ai") is not None


@pytest.mark.skipif(not INSTALLED, reason="inspect_ai is not installed (pip install -e '.[inspect]')")
def test_inspect_reads_what_the_results_say(workspace: Path, tmp_path: Path) -> None:
    from inspect_ai.log import list_eval_logs, read_eval_log

    results, data = tmp_path / "eva_results", data_of(workspace)
    make_results(results, data)
    report = build(sources(results, workspace), tmp_path / "report").page.parent
    written = write_inspect_logs(results, data, MODELS, report, tmp_path / "logs")
    assert len(written) == len(list_eval_logs(str(tmp_path / "logs"))) == len(MODELS) * len(NAMES)
    log = read_eval_log(str(tmp_path / "logs" / "Spatial_checkpoint-5.eval"))
    example = find_examples(data, find_dimension("Spatial"))[0]
    assert (log.status, log.eval.model, log.eval.task) == ("success", "checkpoint-5", "Spatial")
    assert log.results is not None
    assert log.results.scores[0].metrics["mean"].value == 40
    assert log.samples is not None
    first, second = log.samples
    assert first.output.completion == right(example)
    assert first.input[0].text == example.instruction
    assert first.scores["total_score"].value == 80
    assert (first.scores["diagnosis"].value, second.scores["diagnosis"].value) == ("correct", "unreadable")
    assert len({part.image for part in first.input[0].content if part.type == "image"}) == 2
    assert len({read_eval_log(str(path), header_only=True).eval.task_id for path in written}) == len(written)


@pytest.mark.skipif(INSTALLED, reason="inspect_ai is installed")
def test_without_inspect_nothing_is_begun(tmp_path: Path) -> None:
    done = run_script("scripts/evaluation/build_report.py", "--results_dir", str(tmp_path), "--inspect_log")
    assert done.returncode == 1
    assert 'error: --inspect_log needs inspect_ai: pip install -e ".[inspect]"' in done.stderr
