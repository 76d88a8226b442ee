"""LeRobotDatasets that lerobot wrote: what its own reader gives is what LEAP trains on; a task alone is refused.

tests/data/lerobot/write_datasets.py made them, with lerobot 0.6.1 (language) and 0.4.4 (indexed).
"""

import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TEST_DATA
from PIL import Image
from servers.hub import HubServer
from servers.hub_store import Fault, Stored, cut
from test_formats import Files, chat, encoder, files, same  # noqa: F401  (fixtures)

from leap.data import lerobot_dataset
from leap.data.lerobot_dataset import INFO
from leap.data.sample_datasets import find_samples
from leap.errors import LeapError

WRITTEN = TEST_DATA / "lerobot"
DATA, TASKS, EPISODES = (
    "data/chunk-000/file-000.parquet",
    "meta/tasks.parquet",
    "meta/episodes/chunk-000/file-000.parquet",
)
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the data set with the language column: images of two cameras."""
    return Path(shutil.copytree(WRITTEN / "language", tmp_path / "mine"))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A copy of the one with numbered subtasks: a video."""
    return Path(shutil.copytree(WRITTEN / "indexed", tmp_path / "mine"))


def read(root: Path, name: str = "mine:front") -> list[dict[str, Any]]:
    source = find_samples(name, root.parent, root.parent / "cache")
    assert source is not None
    return [row for _, row in source.samples() if isinstance(row, dict)]


def refusal(root: Path, name: str = "mine:front") -> str:
    with pytest.raises(LeapError) as error:
        read(root, name)
    (line,) = str(error.value).splitlines()
    return line


def as_lerobot_reads(root: Path, rows: list[dict[str, Any]]) -> None:
    """The task, the subtasks of the frames in a row, and every pixel."""
    expected = json.loads((root / "EXPECTED.json").read_text())["episodes"]
    assert [row["id"] for row in rows] == list(expected)
    for row, wanted in zip(rows, expected.values(), strict=True):
        said = [text for text, _ in groupby(text for text in wanted["subtasks"] if text)]
        image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        assert (row["task"], row["subtasks"]) == (wanted["task"], said)
        assert hashlib.sha256(image.tobytes()).hexdigest() == wanted["pixels"]


def test_images_and_the_language_column_are_what_lerobot_reads(folder: Path) -> None:
    as_lerobot_reads(folder, read(folder))
    assert read(folder, "mine:observation.images.front") == read(folder)
    assert read(folder, "mine:wrist")[0]["image"] != read(folder)[0]["image"]


def test_videos_and_numbered_subtasks_are_what_lerobot_reads(video: Path) -> None:
    pytest.importorskip("torchcodec")
    as_lerobot_reads(video, read(video, "mine"))


def test_an_episode_trains_as_the_same_sample_in_leaps_own_form(folder: Path, files: Files) -> None:  # noqa: F811
    shutil.copytree(folder, files.folder / "robot", dirs_exist_ok=True)
    checked = files.check(find_samples("robot:front", files.folder, files.folder / "cache"))
    assert (checked.format.name, len(checked)) == ("lerobot", 3)
    found = files.read(find_samples("robot:front", files.folder, files.folder / "cache"))
    (files.folder / "first.png").write_bytes(read(folder)[1]["image"]["bytes"])
    asked = (
        'What steps should the robot take to carry out this request: "Throw the can away" Answer with numbered steps.'
    )
    content = [{"type": "image", "image": "first.png"}, {"type": "text", "text": asked}]
    steps = "1) Grasp the can. 2) Drop it into the bin."
    (wanted,) = files.read(
        files.lines({"messages": [{"role": "user", "content": content}], "target": {"steps": steps}})
    )
    assert same(found[1], wanted)


def test_frames_are_read_once_until_a_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read(folder)
    with monkeypatch.context() as patched:
        patched.setattr(lerobot_dataset, "_texts", lambda *_: {})
        assert read(folder) == rows
        os.utime(folder / DATA, ns=(1, 1))
        assert "task 0 is not in meta/" in refusal(folder)


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with the data set of the language column, and an empty one; a cache of its own on this side."""
    paths = [path for path in (WRITTEN / "language").rglob("*") if path.is_file()]
    content = {path.relative_to(WRITTEN / "language").as_posix(): path.read_bytes() for path in paths}
    other = {"videos/observation.images.other/chunk-000/file-000.mp4": b"another camera's"}
    plain = Stored("some/table", "dataset", {"README.md": b""})
    with HubServer([Stored("some/robot", "dataset", content | other), plain]) as hub:
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
        yield hub


def test_a_data_set_on_the_hub_brings_what_is_read_of_it(robot: HubServer, tmp_path: Path) -> None:
    source = find_samples("some/robot:front", tmp_path, tmp_path)
    assert source is not None
    as_lerobot_reads(WRITTEN / "language", [row for _, row in source.samples() if isinstance(row, dict)])
    assert not [seen for seen in robot.seen if "other" in seen.path]
    unlike = find_samples("some/table", tmp_path, tmp_path)
    assert unlike is not None
    assert unlike._lerobot_root() is None  # type: ignore[union-attr]


@pytest.mark.parametrize(("path", "fault"), [(INFO, cut(100)), (DATA, cut(100)), (DATA, Fault("503", 503))])
def test_a_lost_connection_is_told_in_a_line_and_the_next_call_goes_on(
    robot: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, fault: Fault
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between huggingface_hub's own tries
    robot.reset(lambda seen: fault if seen.path == path else None)
    words = r"some/robot:front: not all of it came from the hub \(.*\); the same command fetches the rest"
    assert re.fullmatch(words, refusal(tmp_path / "some", "some/robot:front"))
    robot.reset()
    as_lerobot_reads(WRITTEN / "language", read(tmp_path / "some", "some/robot:front"))


def information(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        path = root / "meta" / "info.json"
        info = json.loads(path.read_text())
        change(info)
        path.write_text(json.dumps(info))

    return act


def table(name: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda root: pq.write_table(change(pq.read_table(root / name)), root / name)


def without(*columns: str) -> Callable[[pa.Table], pa.Table]:
    return lambda read: read.drop_columns(list(columns))


def replaced(column: str, values: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def change(read: pa.Table) -> pa.Table:
        place = read.column_names.index(column)
        made = pa.array(values(read.column(column).to_pylist()), read.schema.field(column).type)
        return read.set_column(place, read.schema.field(column), made)

    return change


def of_style(style: str) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [[said for said in row if said["style"] == style] for row in rows]


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (
            None,
            "mine",
            "mine: it has several cameras; give one: {mine}:observation.images.front, {mine}:observation.images.w",
        ),
        (None, "mine:top", "mine:top: it has no camera 'top'; give one: {mine}:observation.images.front, "),
        (
            information(lambda info: info.update(codebase_version="v2.1")),
            "mine:front",
            "v2.1, and LEAP reads v3; convert",
        ),
        (information(lambda info: info["features"].clear()), "mine", "mine: it has no camera"),
        (information(lambda info: info.pop("features")), "mine", "info.json: features: Field required"),
        (
            information(
                lambda info: [
                    one.update(info={"is_depth_map": True}) for name, one in info["features"].items() if "wrist" in name
                ]
            ),
            "mine:wrist",
            "it has no camera 'wrist'; give one: {mine}:observation.images.front",
        ),
        (
            table(DATA, without("language_persistent")),
            "mine:front",
            "tasks and no subtasks (language_persistent or subtask_index): instructions without a plan to learn;",
        ),
        (table(DATA, without("task_index")), "mine:front", "it has no task_index, and is no table of a LeRobotDataset"),
        (lambda root: shutil.rmtree(root / "data"), "mine:front", "there is no data/*/*.parquet in it; fetch it whole"),
        (
            lambda root: (root / DATA).write_bytes(b"PAR1"),
            "mine:front",
            "file-000.parquet: the Parquet table cannot be r",
        ),
        (
            lambda root: (root / TASKS).unlink(),
            "mine:front",
            "tasks.parquet: the Parquet table cannot be read after row",
        ),
        (table(TASKS, without("task")), "mine:front", "row 1: task_index and one text are expected, found task_index"),
        (
            table(DATA, replaced("task_index", lambda rows: [0, 1, *rows[2:]])),
            "mine:front",
            "episode 0 has 2 tasks, and a plan is for one",
        ),
        (
            table(DATA, replaced("frame_index", lambda rows: [5 if row == 0 else row for row in rows])),
            "mine:front",
            "episode 0 has no frame 0",
        ),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(folder: Path, change: Any, name: str, words: str) -> None:
    if change:
        change(folder)
    assert words.format(mine=folder) in refusal(folder, name)


def test_an_episode_without_subtasks_is_told_by_its_number(folder: Path, files: Files) -> None:  # noqa: F811
    table(DATA, replaced("language_persistent", of_style("memory")))(folder)
    shutil.copytree(folder, files.folder / "robot", dirs_exist_ok=True)
    with pytest.raises(LeapError, match=r"robot:front:1: episode 0 has a task and no subtasks: .* \(unusable.*: 3"):
        files.check(find_samples("robot:front", files.folder, files.folder / "cache"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "meta/subtasks.parquet").unlink(), "subtasks.parquet: the Parquet table cannot be read"),
        (table("meta/subtasks.parquet", lambda read: read.slice(0, 4)), "episode 0: subtask 4 is not in meta/"),
        (lambda root: (root / EPISODES).unlink(), "episode 0: video of episode 0 is not in meta/"),
        (
            table(EPISODES, without("videos/observation.images.front/file_index")),
            "does not say where the videos of obs",
        ),
        (lambda root: (root / VIDEO).unlink(), "file-000.mp4: there is no such file; fetch the data set whole"),
    ],
)
def test_what_a_video_lacks_is_told(video: Path, change: Any, words: str) -> None:
    lerobot_dataset._decoder.cache_clear()
    change(video)
    assert words in refusal(video)


def test_a_video_needs_torchcodec(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lerobot_dataset._decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    assert "file-000.mp4: torchcodec reads videos, and cannot be loaded (" in refusal(video)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / VIDEO).write_bytes(b"no video"), "file-000.mp4: it cannot be read as a video ("),
        (
            table(EPISODES, replaced("videos/observation.images.front/from_timestamp", lambda rows: [0.0, 0.93, 99.0])),
            "file-000.mp4: no frame at 0.930 s, but at 0.900 s",
        ),
        (
            table(EPISODES, replaced("videos/observation.images.front/from_timestamp", lambda rows: [99.0, 0.9, 1.6])),
            "no frame at 99.000 s",
        ),
    ],
)
def test_a_frame_that_is_not_there_is_told(video: Path, change: Any, words: str) -> None:
    pytest.importorskip("torchcodec")
    lerobot_dataset._decoder.cache_clear()
    change(video)
    assert words in refusal(video)
