"""What others wrote is shown, never obeyed: on the screen, in CSV, in Markdown."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY, run_script
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table

from leap.cli import run
from leap.console import new_console
from leap.errors import LeapError
from leap.judge.review_files import read_table, write_table
from leap.progress import track
from leap.records.table_cells import csv_text, markdown_lines, without_marks
from leap.terminal import guard, in_one_line, shown

RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u202e\u2066\ud800-\udfff]")
ANY_TEXT = st.text(st.characters(exclude_categories=()))
HOSTILE = "a[bold] :smile:\x1b]0;owned\x07\x1b[2K\r\x9b31m\u202eb\udce9 [/]"


@contextmanager
def guarded() -> Iterator[StringIO]:
    """Both streams, guarded, as text."""
    stream = StringIO()
    with redirect_stdout(stream), redirect_stderr(stream):
        guard()
        yield stream


@given(ANY_TEXT)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert not RAW.search(shown(text))
    assert "\n" not in in_one_line(text)
    assert shown(shown(text)) == shown(text)
    shown(text).encode()


def test_ordinary_text_is_left_alone() -> None:
    text = "1) 抓取紅色的蘋果 (apple)\n\tnaïve — “quotes” 🤖 [x] {y}\n"
    assert shown(text) == text


@given(st.recursive(ANY_TEXT | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner)))
def test_json_on_the_screen_stays_the_same_json(value: object) -> None:
    assert json.loads(shown(json.dumps(value, ensure_ascii=False))) == json.loads(json.dumps(value))


def test_prints_bars_and_tables_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with guarded() as screen:
        print(HOSTILE)
        assert list(track([1], HOSTILE)) == [1]
        table = Table("model", title=HOSTILE)
        table.add_row(HOSTILE)
        console = new_console()
        console.print(table)
        console.print(HOSTILE)
    assert not RAW.search(screen.getvalue())
    assert screen.getvalue().count("a[bold] :smile:") == 5


def test_an_error_is_one_line_whatever_it_names() -> None:
    def fail() -> None:
        raise LeapError(f"{HOSTILE}\nerror: all is well\x1b[8m")

    with guarded() as screen, pytest.raises(SystemExit):
        run(fail)
    (line,) = screen.getvalue().splitlines()
    assert line.startswith("error: a[bold] :smile:\\u001b]0;owned")
    assert not RAW.search(line)


def test_a_path_and_a_usage_error_are_shown(tmp_path: Path) -> None:
    for options in (["--models", HOSTILE], [f"--{HOSTILE}"]):
        done = run_script("scripts/evaluation/draw_evaluation_results.py", *options, root=tmp_path)
        assert done.returncode != 0
        assert not RAW.search(done.stdout + done.stderr)


PRINT = """
import sys
from leap.console import new_console
from leap.progress import track
from leap.terminal import guard
guard()
print("one\\x1b[2Jtwo")
list(track([1], "bar\\x1b]0;x\\x07"))
new_console().print("three\\x1b[2J", style="red")
sys.stderr.write("\\rfour")
"""


def test_on_a_terminal_only_our_own_commands_are_left() -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-c", PRINT]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "200"}
    environment.pop("NO_COLOR", None)
    child = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    found = b""
    try:
        while piece := os.read(ours, 4096):
            found += piece
    except OSError:  # EIO: the child has ended
        pass
    os.close(ours)
    assert child.wait() == 0
    assert b"one\\u001b[2Jtwo" in found
    assert b"three\\u001b[2J" in found
    assert b"bar\\u00" in found
    assert b"\rfour" in found  # libraries renew their bars so
    assert not set(re.findall(rb"\x1b(?:\[2J|\])", found))
    assert b"\x1b[31mthree" in found


FORMULAS = ["=cmd|' /C calc'!A0", "+1+2", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1", "'=1", "''=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_no_formula_in_csv(text: str) -> None:
    table = pd.DataFrame({"mean": [1.5]}, index=pd.Index([text], name="model"))
    for content in (csv_text(table.reset_index()), csv_text(table, index=True)):
        read = pd.read_csv(StringIO(content), dtype=str, keep_default_na=False)
        assert read["model"].tolist() == [f"'{text}"]
        assert read["mean"].tolist() == ["1.5"]


@pytest.mark.parametrize("text", ["-5", "+1.25", "-1e-5", "-12.3 %", "checkpoint-200", "a=b", "'quoted'", "-"])
def test_numbers_and_names_stay_as_they_are(text: str) -> None:
    expected = f"'{text}" if text == "-" else text
    assert csv_text(pd.DataFrame({"a": [text]})).splitlines() == ["a", expected]


@given(st.lists(st.text(st.sampled_from("'=+-@a1\t\r\n,;\"＝ ")), min_size=1))
def test_a_table_of_ours_is_read_back_as_it_was(texts: list[str]) -> None:
    table = pd.DataFrame({"model_output": texts, "n": range(len(texts))})
    read = pd.read_csv(StringIO(csv_text(table)), dtype=str, keep_default_na=False)
    assert without_marks(read)["model_output"].tolist() == texts


def test_a_blind_review_keeps_formulas_from_spreadsheets_and_reads_them(tmp_path: Path) -> None:
    rows = [{"model_name": "m", "model_output": text} for text in FORMULAS]
    path = write_table(tmp_path, "blind10_outputs", rows, ["model_name", "model_output"])
    assert not re.search(r'^"?m"?,"?[=+@＝-]', path.read_text(), re.MULTILINE)
    assert read_table(path)["model_output"].tolist() == FORMULAS


@given(st.text(st.sampled_from("|\\`*<>[]()_~!a b\n\r\x1b\u2028"), max_size=20))
def test_a_name_makes_no_cell_and_no_markup_of_its_own(name: str) -> None:
    text = markdown_lines(["model", "mean"], [False, True], [[name, "1"]])
    assert len(text.splitlines()) == 3
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").parse(text)
    assert sum(token.type == "td_open" for token in tokens) == 2
    inner = [child.type for token in tokens for child in token.children or []]
    assert set(inner) <= {"text", "text_special"}


NAMES = ["a|b", "x\ny", "=cmd|calc!A0", "[red]q[bold]\x1b[31m", os.fsdecode(b"caf\xe9"), "<b>c", "checkpoint-7_1shot"]


@pytest.mark.slow
def test_results_of_models_with_hostile_names_are_shown_and_written(tmp_path: Path) -> None:
    keys = ("skill_match_score", "entity_match_score", "skill_with_entity_match_score", "exact_match_score")
    scores = {"select_x": {str(n): dict.fromkeys([*keys, "total_score"], 10.0 * n) for n in range(3)}}
    counts = {"examples": 3, "scored": 3, "format_error": 0, "truncated": 0, "inference_error": 0, "missing": 0}
    for name in ["Baseline", *NAMES]:
        folder = tmp_path / "eva_results" / "Spatial" / name
        folder.mkdir(parents=True)
        (folder / "final_score.json").write_text(json.dumps(scores))
        (folder / "manifest.json").write_text(json.dumps({"counts": counts, "status": "complete"}))
    for script, *options in (
        ("draw_evaluation_results.py", "--models", "Baseline", *NAMES),
        ("compare_models.py", NAMES[3], NAMES[4]),
    ):
        done = run_script(f"scripts/evaluation/{script}", *options, root=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not RAW.search(done.stdout + done.stderr)
        assert "caf\\udce9" in done.stdout
    found = list((tmp_path / "eva_results").rglob("*.md")) + list((tmp_path / "eva_results").rglob("*.csv"))
    assert len(found) >= 4
    for path in found:
        text = path.read_text()
        assert not RAW.search(text)
        if path.suffix == ".csv":
            cells = pd.read_csv(path, dtype=str, keep_default_na=False).to_numpy().flatten()
            assert not [cell for cell in cells if re.match(r"[=@]|[+-](?!\d)", cell)]
        else:
            for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
                assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
