"""A kill at any line, a full disk, a second process: nothing finished is lost, doubled or asked again."""

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

import leap.evaluation
import leap.records
from leap import provenance
from leap.cli import run
from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.evaluation.evaluate import evaluate_models, in_this_process
from leap.evaluation.evaluation_progress import Monitor
from leap.evaluation.predictions import read_predictions
from leap.evaluation.rescore import rescore
from leap.evaluation.settings import EvaluatedModel, EvaluationSettings
from leap.inference.protocol import Decoding, Request, Response
from leap.records.benchmark import Prediction
from leap.records.files import move_folder, write_atomic
from leap.records.json_files import JsonlAppender, read_jsonl, read_object, write_json
from leap.records.locks import FolderLock
from leap.report.results import incomplete_note, read_counts
from leap.vlabench.dimensions import find_dimension
from leap.vlabench.prompts import fenced_plan, leap_instructions
from leap.vlabench.sources import LEAP_SCORER

DIMENSIONS = tuple(map(find_dimension, ("Semantic", "Spatial")))
MODEL = EvaluatedModel("m", weights="0")
PLAN = [{"name": "pick", "params": {"target_entity_name": 1}}]
EXAMPLES = 3  # a dimension
KEYS = [(dimension.name, "task", str(number)) for dimension in DIMENSIONS for number in range(EXAMPLES)]
HOLD = (
    "import sys; from pathlib import Path; from leap.records.locks import FolderLock\n"
    "with FolderLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


@dataclass
class ScriptedEngine:
    """An engine whose model is a rule: every answer follows from its example's number. It can fail and be stopped."""

    failing: frozenset[tuple[str, ...]] = frozenset()
    stops_after: int | None = None  # answers
    seed: int = 0  # of the order
    meanwhile: Callable[[], object] | None = None  # called before each answer
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def responses(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[Response]:
        for done, request in enumerate(random.Random(self.seed).sample(list(requests), len(requests))):
            if done == self.stops_after:
                raise KeyboardInterrupt
            if self.meanwhile:
                self.meanwhile()
            self.asked.append(request.key)
            if request.key in self.failing:
                yield Response(request.key, error="the server is down")
            else:
                text = fenced_plan(PLAN * (int(request.key[2]) + 1)) + "é" * 10000  # more than a write's buffer
                yield Response(request.key, text=text, finish="stop", prompt_tokens=7, new_tokens=3)

    def describe(self) -> dict[str, Any]:
        return {"engine": "scripted"}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmark")
    for dimension, task, number in KEYS:
        example = root / dimension / task / f"example{number}"
        for part in ("input", "output"):
            (example / part).mkdir(parents=True)
        (example / "input" / "instruction.txt").write_text(f"Pick it, {number}.")
        for name in ("input.png", "input_mask.png"):
            Image.new("RGB", (4, 4), (int(number), 0, 0)).save(example / "input" / name)
        (example / "output" / "operation_sequence.json").write_text(json.dumps({"skill_sequence": PLAN}))
    return root


def evaluate(
    root: Path, data: Path, engine: ScriptedEngine | None = None, archive: Path | None = None, **settings: Any
) -> None:
    chosen = EvaluationSettings(data, leap_instructions(), ImageSize(4, 9), Decoding(), **settings)
    load = ScriptedEngine if engine is None else lambda: engine
    evaluate_models(
        [lambda: MODEL],
        DIMENSIONS,
        chosen,
        in_this_process(lambda _: closing(load()), chosen),
        root,
        REPOSITORY,
        archive,
    )


class Clock:
    """Time passes only while an engine works."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_dimensions_rate_is_that_of_its_own_answers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All dimensions are asked at once, and in several runs: pauses and the others' time are not its own."""
    clock = Clock()
    for module in ("evaluate", "result_folder"):
        monkeypatch.setattr(f"leap.evaluation.{module}.time", clock)
    watched = []

    def answer() -> None:
        clock.now += 4
        watched.extend(progress.rate for progress in Monitor(tmp_path).read())

    engine = ScriptedEngine(meanwhile=answer)
    evaluate(tmp_path, data, engine, num_episodes=1)
    clock.now += 10**6
    engine.seed = 1
    evaluate(tmp_path, data, engine)
    assert set(watched) == {None, 0.25}  # unknown until the first note
    evaluate(tmp_path, data, engine)  # asks nothing
    rates = {progress.dimension: progress.rate for progress in Monitor(tmp_path).read()}
    assert rates == {"Semantic": 0.25, "Spatial": 0.25}
    path = folder_of(tmp_path) / "manifest.json"
    killed = read_object(path)
    del killed["end"]
    write_json(path, {**killed, "status": "running"})
    assert [progress.rate for progress in Monitor(tmp_path).read() if progress.dimension == "Semantic"] == [0.25]


def folder_of(root: Path, dimension: str = "Semantic") -> Path:
    return root / dimension / "m"


def final_files(root: Path) -> dict[str, bytes]:
    """All that a run leaves, manifests without what tells of the run and not of the result."""
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for name in [name for name in files if name.endswith("manifest.json")]:
        manifest = json.loads(files[name])
        files[name] = json.dumps(
            {key: value for key, value in manifest.items() if key not in ("start", "end", "inference", "command")}
        ).encode()
    return files


def answered_lines(root: Path) -> dict[tuple[str, ...], bytes]:
    """The whole lines with an answer, by example; none may be there twice."""
    found: dict[tuple[str, ...], bytes] = {}
    for path in root.rglob("predictions.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            record = json.loads(line) if line.endswith(b"\n") else {"text": None}
            if record["text"] is not None:
                key = path.parent.parent.name, record["task"], record["example"]
                assert key not in found
                found[key] = line
    return found


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one unbroken run leaves."""
    root = tmp_path_factory.mktemp("whole")
    evaluate(root, data)
    files = final_files(root)
    assert len(files) == 4 * len(DIMENSIONS)
    assert all(
        json.loads(files[f"{dimension.name}/m/manifest.json"])["status"] == "complete" for dimension in DIMENSIONS
    )
    return files


# --- a run that is interrupted


SESSION = st.fixed_dictionaries(
    {
        "failing": st.frozensets(st.sampled_from(KEYS)),
        "stops_after": st.integers(0, len(KEYS)),
        "seed": st.integers(0, 99),
        "torn": st.integers(0, 60),  # bytes of a line that a kill left half written
        "num_episodes": st.none() | st.integers(1, EXAMPLES),
    }
)


@pytest.mark.slow
@given(st.lists(SESSION, max_size=5))
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_interrupted_runs_end_as_an_unbroken_one(
    data: Path, whole: dict[str, bytes], sessions: list[dict[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for session in [*sessions, {}]:
            torn, episodes = session.pop("torn", 0), session.pop("num_episodes", None)
            before = answered_lines(root)
            engine = ScriptedEngine(**session)
            with suppress(KeyboardInterrupt):
                evaluate(root, data, engine, num_episodes=episodes)
            assert not before.keys() & engine.asked
            assert before.items() <= answered_lines(root).items()
            path = folder_of(root) / "predictions.jsonl"
            if torn and before:
                with path.open("ab") as file:
                    file.write(next(iter(before.values()))[:torn])
        assert final_files(root) == whole


LINES_OF = (*leap.evaluation.__path__, *leap.records.__path__, shutil.__file__)


def killed_at(line: int, work: Callable[[], None], files: Sequence[str] = LINES_OF) -> bool:
    """Do it in another process that is killed at the N-th line that it runs of our files; False if it ended before."""
    process = os.fork()
    if process == 0:
        count = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal count
            if not frame.f_code.co_filename.startswith(tuple(files)):
                return None
            count += event == "line"
            if count > line:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        sys.settrace(trace)
        try:
            work()
        except BaseException:  # noqa: BLE001 - the parent sees it as an exit code
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def lines_of(work: Callable[[], None]) -> int:
    """How many lines it runs: found by halving."""
    low, high = 0, 1 << 14
    while high - low > 8:
        middle = (low + high) // 2
        low, high = (middle, high) if killed_at(middle, work) else (low, middle)
    return low


@pytest.mark.slow
def test_killed_at_any_line_the_same_call_ends_as_an_unbroken_one(
    data: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    rng, root = random.Random(5), tmp_path / "r"
    killed = 0
    for _ in range(12):
        shutil.rmtree(root, ignore_errors=True)
        for _ in range(4):
            before = answered_lines(root)
            killed += killed_at(int(10 ** rng.uniform(1.5, 3.4)), lambda: evaluate(root, data))
            assert before.items() <= answered_lines(root).items()
        engine = ScriptedEngine()
        before = answered_lines(root)
        evaluate(root, data, engine)
        assert not before.keys() & engine.asked
        assert final_files(root) == whole
    assert killed > 24


@pytest.fixture(params=["one file system", "two"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "one file system":
        yield tmp_path / "backup"
        return
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name) / "backup"


@pytest.mark.slow
def test_killed_while_it_archives(data: Path, whole: dict[str, bytes], tmp_path: Path, archive: Path) -> None:
    rng, root = random.Random(6), tmp_path / "r"

    def fresh() -> None:
        evaluate(root, data, None, archive, with_cot=True)

    evaluate(root, data)
    old = {path.read_bytes() for path in root.rglob("predictions.jsonl")}
    lines = lines_of(fresh)
    for _ in range(12):
        for place in (root, archive):
            shutil.rmtree(place, ignore_errors=True)
        evaluate(root, data)
        killed_at(rng.randrange(lines * 2 // 3), fresh)
        fresh()
        kept = {path.read_bytes() for path in archive.rglob("predictions.jsonl")}
        assert old <= kept
        assert final_files(root).keys() == whole.keys()
        assert not any("partial" in path.name for path in root.rglob("*"))


def test_a_failed_example_is_asked_again_and_its_line_replaced(
    data: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    evaluate(tmp_path, data, ScriptedEngine(failing=frozenset(KEYS[1:3])))
    path = folder_of(tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text())
    assert (manifest["status"], manifest["counts"]["inference_error"]) == ("incomplete", 2)
    assert len((path.with_name("predictions.jsonl")).read_bytes().splitlines()) == EXAMPLES
    engine = ScriptedEngine()
    evaluate(tmp_path, data, engine)
    assert sorted(engine.asked) == KEYS[1:3]
    assert final_files(tmp_path) == whole


def test_scores_that_are_partial_are_reported_while_the_rest_is_asked_again(data: Path, tmp_path: Path) -> None:
    failing = frozenset(KEYS[1:3])
    evaluate(tmp_path, data, ScriptedEngine(failing=failing))
    note = "incomplete: 2 of 3 examples unscored (m, Semantic: 2 of 3)"
    seen: list[str] = []
    look = lambda: seen.append(incomplete_note(read_counts(tmp_path)))  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, data, ScriptedEngine(failing=failing, stops_after=1, meanwhile=look))
    assert seen == [note]
    assert incomplete_note(read_counts(tmp_path)) == note
    evaluate(tmp_path, data)
    assert incomplete_note(read_counts(tmp_path)) == ""


def test_a_refused_run_changes_nothing(data: Path, tmp_path: Path) -> None:
    """The second dimension is refused when the first is ready; then an engine does not load."""
    evaluate(tmp_path / "r", data)
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.json*")}
    changed = Path(shutil.copytree(data, tmp_path / "changed"))
    (changed / "Spatial" / "task" / "example1" / "input" / "instruction.txt").write_text("Something else.")
    with pytest.raises(LeapError, match="1 of its answers are to other data"):
        evaluate(tmp_path / "r", changed)
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before


def test_an_engine_that_does_not_load_leaves_finished_dimensions_complete(data: Path, tmp_path: Path) -> None:
    evaluate(tmp_path, data, ScriptedEngine(failing=frozenset(KEYS[-1:])))

    def broken() -> ScriptedEngine:
        raise LeapError("no such server")

    settings = EvaluationSettings(data, leap_instructions(), ImageSize(4, 9), Decoding())
    with pytest.raises(LeapError, match="no such server"):
        evaluate_models(
            [lambda: MODEL],
            DIMENSIONS,
            settings,
            in_this_process(lambda _: closing(broken()), settings),
            tmp_path,
            REPOSITORY,
        )
    shown = {found.dimension: found.status for found in Monitor(tmp_path).read()}
    assert shown == {"Semantic": "complete", "Spatial": "stopped"}


def test_a_run_is_seen_from_outside_while_it_writes(data: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    seen = []

    def look() -> None:
        seen.append(sum(found.done for found in Monitor(tmp_path).read() if found.status == "running"))
        with pytest.raises(LeapError, match=f"process {os.getpid()} on"):
            rescore(folder_of(tmp_path), data, LEAP_SCORER)
        with pytest.raises(LeapError, match=f"process {os.getpid()} on"):
            evaluate(tmp_path, data, None, tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, data, ScriptedEngine(stops_after=3, meanwhile=look))
    assert seen == [0, 1, 2]
    stopped = Monitor(tmp_path).read()
    assert {found.status for found in stopped} == {"stopped"}
    assert sum(found.done for found in stopped) == 3
    for dimension in DIMENSIONS:
        rescore(folder_of(tmp_path, dimension.name), data, LEAP_SCORER)
    assert {found.status for found in Monitor(tmp_path).read()} == {"incomplete"}
    evaluate(tmp_path, data)
    assert final_files(tmp_path) == whole
    assert not (tmp_path / "backup").exists()


# --- --fresh


def test_fresh_with_nothing_there(data: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    evaluate(tmp_path / "r", data, None, tmp_path / "backup")
    assert final_files(tmp_path / "r") == whole
    assert not (tmp_path / "backup").exists()


def test_every_fresh_keeps_its_own_archive(
    data: Path, whole: dict[str, bytes], tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within one second, and whatever file system the archive is on."""
    monkeypatch.setattr(provenance, "now", lambda: "2026-01-01T00:00:00+00:00")
    evaluate(tmp_path / "r", data, ScriptedEngine(failing=frozenset(KEYS)))
    for _ in range(3):
        evaluate(tmp_path / "r", data, None, archive)
    assert final_files(tmp_path / "r") == whole
    archived = sorted(path.relative_to(archive).as_posix() for path in archive.glob("*/Semantic/*"))
    assert archived == [f"2026-01-01T000000+0000/Semantic/{name}" for name in ("m", "m-2", "m-3")]
    status = [json.loads((archive / path / "manifest.json").read_text())["status"] for path in archived]
    assert status == ["incomplete", "complete", "complete"]
    for path in archived:
        assert {file.name for file in (archive / path).iterdir()} == {
            "predictions.jsonl",
            "diagnosis.jsonl",
            "final_score.json",
            "manifest.json",
        }


def test_fresh_moves_nothing_where_another_process_writes(data: Path, tmp_path: Path) -> None:
    evaluate(tmp_path / "r", data)
    before = final_files(tmp_path / "r")
    with FolderLock(folder_of(tmp_path / "r", "Spatial")), pytest.raises(LeapError, match="another process"):
        evaluate(tmp_path / "r", data, None, tmp_path / "backup")
    assert final_files(tmp_path / "r") == before
    assert not (tmp_path / "backup").exists()


def test_a_folder_is_never_moved_into_or_onto_another(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "file").write_text(str(number))
        assert (move_folder(tmp_path / "a", tmp_path / "b" / "c") / "file").read_text() == str(number)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["c", "c-2", "c-3"]


def test_an_interrupted_fresh_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --fresh again, its answers would be moved away too."""

    def main() -> None:
        raise KeyboardInterrupt

    for options, message in (
        (["--fresh"], "the same command without --fresh continues"),
        ([], "the same command continues"),
    ):
        monkeypatch.setattr(sys, "argv", ["evaluate", *options])
        with pytest.raises(SystemExit, match="130"):
            run(main)
        assert message in capsys.readouterr().err


# --- the lock of a folder


def hold(folder: Path) -> subprocess.Popen[bytes]:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    return other


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        with pytest.raises(LeapError, match=f"process {other.pid} on"), FolderLock(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
        other.kill()
    assert f"process {other.pid}" in (tmp_path / ".lock").read_text()
    with FolderLock(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_a_process_cannot_lock_twice(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "a"):
        with pytest.raises(LeapError, match=f"process {os.getpid()} on"), FolderLock(tmp_path / "a"):
            pass
        (tmp_path / "a" / "kept").write_text("")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_a_forked_worker_does_not_keep_a_dead_process_lock(tmp_path: Path) -> None:
    """It outlives its parent for seconds: the same command must not be refused then."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        lock = FolderLock(tmp_path)
        lock.__enter__()
        worker = os.fork()
        if worker == 0:
            signal.pause()
        os.write(writing, str(worker).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    worker = int(os.read(reading, 99))
    try:
        with FolderLock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


def test_a_look_at_the_lock_does_not_hinder_its_taking(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on another")
    with (tmp_path / ".lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.15, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with FolderLock(tmp_path):
            pass


def test_a_lock_whose_folder_is_gone_lets_go_of_nothing_else(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "a"):
        shutil.rmtree(tmp_path / "a")
    with FolderLock(tmp_path / "a"):
        (tmp_path / "a").rename(tmp_path / "b")
        other = hold(tmp_path / "a")
    with other, pytest.raises(LeapError, match=f"process {other.pid} on"), FolderLock(tmp_path / "a"):
        pass
    assert not (tmp_path / "a").exists()


def test_many_processes_take_a_folder_in_turn(tmp_path: Path) -> None:
    """Each removes the folder again while others are making it; a count beside it tells whether two were in at once."""
    take = (
        "import sys; from pathlib import Path; from leap.errors import LeapError\n"
        "from leap.records.locks import FolderLock\n"
        "folder, count, done = Path(sys.argv[1]), Path(sys.argv[2]), 0\n"
        "while done < 150:\n"
        "    try:\n"
        "        with FolderLock(folder):\n"
        "            count.write_text(str(int(count.read_text()) + 1)); done += 1\n"
        "    except LeapError: pass\n"
    )
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", take, str(tmp_path / "a"), str(tmp_path / "count")]
    others = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY) for _ in range(4)]
    assert [other.communicate()[1] for other in others] == [""] * 4
    assert (tmp_path / "count").read_text() == "600"
    assert not (tmp_path / "a").exists()


# --- single files


def test_a_record_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, fsync = tmp_path / "p.jsonl", [], os.fsync
    record = Prediction(task="t", example="1", text="a")

    def recording(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.read_bytes()))

    with JsonlAppender(path) as file:
        monkeypatch.setattr(os, "fsync", recording)
        for number in (1, 2):
            file.append(record)
            assert synced[-1] == (str(path), path.read_bytes())
            assert len(synced) == number
            assert path.read_bytes().count(b"\n") == number


def test_what_a_kill_left_of_a_replacement_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "manifest.json"
    write_atomic(path, "old")
    child = os.fork()
    if child == 0:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        write_atomic(path, "new")
    os.waitpid(child, 0)
    assert path.read_text() == "old"
    assert len(list(path.parent.iterdir())) == 2
    with FolderLock(path.parent):
        pass
    assert list(path.parent.iterdir()) == [path]


def in_small_space(work: Callable[[], object]) -> str:
    """What OSError it raises in a process whose files may not grow beyond 40,000 bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            work()
        except OSError as error:
            os.write(writing, str(error.filename).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as message:
        return message.read()


def test_a_full_disk_is_an_error_and_earlier_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    records = [Prediction(task="t", example=str(number), text="a" * 15000) for number in range(4)]

    def append_all() -> None:
        with JsonlAppender(path) as file:
            for record in records:
                file.append(record)

    assert in_small_space(append_all) == str(path)
    assert path.stat().st_size == 40000  # two lines and a half
    assert list(read_predictions(path).values()) == records[:2]
    assert in_small_space(lambda: write_atomic(path, "a" * 50000)) == str(path)
    assert list(read_predictions(path).values()) == records[:2]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_ends_a_run_that_the_same_call_continues(
    data: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    message = in_small_space(lambda: evaluate(tmp_path, data))
    assert message.endswith("predictions.jsonl")
    assert len(answered_lines(tmp_path)) >= 1
    evaluate(tmp_path, data)
    assert final_files(tmp_path) == whole


def test_a_half_line_is_passed_over_at_the_end_and_named_in_the_middle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "predictions.jsonl"
    line = Prediction(task="t", example="1", text="a\nb").model_dump_json()
    for end in range(len(line)):
        path.write_text(f"{line}\n{line[:end]}")
        assert list(read_predictions(path)) == [("t", "1")]
        assert path.read_text() == f"{line}\n{line[:end]}"  # only to read it changes nothing
        with JsonlAppender(path):
            assert path.read_text() == f"{line}\n"
    path.write_text(f"{line}\n{line[:9]}\n{line}\n")
    assert capsys.readouterr().err == ""
    assert list(read_predictions(path)) == [("t", "1")]
    assert "1 unreadable records are passed over (line 2: " in capsys.readouterr().err


RECORD = st.builds(Prediction, task=st.text(max_size=9), example=st.text(max_size=2), text=st.text(max_size=30))


@given(
    st.lists(RECORD, min_size=1, max_size=4, unique_by=lambda record: (record.task, record.example)),
    st.sampled_from(["", " ", "\t ", "\r"]),
    st.data(),
)
@hypothesis_settings(max_examples=60)
def test_a_whole_last_record_without_its_line_end_stays_and_a_part_of_one_goes(
    records: list[Prediction], end: str, draw: st.DataObject
) -> None:
    *first, last = [record.model_dump_json().encode() for record in records]
    before = b"".join(line + b"\n" for line in first)
    cut = draw.draw(st.integers(0, len(last) - 1), "bytes of the last record that were written")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "predictions.jsonl"
        path.write_bytes(before + last + end.encode())
        assert list(read_predictions(path).values()) == records
        assert path.read_bytes() == before + last + end.encode()
        with JsonlAppender(path) as file:
            file.append(records[0])
        assert [found for _, found in read_jsonl(path, Prediction)] == [*records, records[0]]
        path.write_bytes(before + last[:cut])
        assert list(read_predictions(path).values()) == records[:-1]
        with JsonlAppender(path):
            assert path.read_bytes() == before


def test_scores_of_answers_whose_file_an_editor_saved_are_over_all_of_them(data: Path, tmp_path: Path) -> None:
    evaluate(tmp_path, data)
    path = folder_of(tmp_path) / "predictions.jsonl"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert rescore(path.parent, data, LEAP_SCORER).counts.scored == EXAMPLES
    engine = ScriptedEngine()
    evaluate(tmp_path, data, engine)
    assert engine.asked == []
    assert path.read_bytes().count(b"\n") == EXAMPLES
