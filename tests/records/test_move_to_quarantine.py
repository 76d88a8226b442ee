"""What is moved out of the way comes back, whatever happened in between; nothing is deleted."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leap.errors import LeapError
from leap.records.quarantine import move_to_quarantine, restore

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def other_file_system() -> Iterator[Path]:
    """A folder to which a rename is refused."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@settings(max_examples=25)
@given(names=st.lists(NAMES, min_size=1, max_size=6, unique_by=str.casefold), which=st.integers(1, 63))
def test_everything_comes_back(names: list[str], which: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder, quarantine = Path(root, "data"), Path(root, "quarantine")
        for number, name in enumerate(names):
            path = folder / f"sub{number % 2}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        before = tree(folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        chosen = [path for number, path in enumerate(paths) if which >> number & 1] or paths
        file = move_to_quarantine(dict.fromkeys(chosen, "no reason"), folder, quarantine)
        assert tree(folder).keys() == before.keys() - {str(path.relative_to(folder)) for path in chosen}
        assert restore(file) == len(chosen)
        assert tree(folder) == before
        assert not any(quarantine.iterdir())


def test_a_name_that_is_not_utf8_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / os.fsdecode(b"caf\xe9.png")
    path.write_text("a")
    file = move_to_quarantine({path: "no reason"}, folder, tmp_path / "quarantine")
    assert not path.exists()
    assert restore(file) == 1
    assert path.read_text() == "a"


def test_folders_move_whole_to_another_file_system_and_back(tmp_path: Path, other_file_system: Path) -> None:
    folder = tmp_path / "data"
    (folder / "example1" / "input").mkdir(parents=True)
    (folder / "example1" / "input" / "a.txt").write_text("a")
    (folder / "b.png").write_bytes(b"b")
    os.utime(folder / "b.png", ns=(1, 5_000))
    before = tree(folder)
    reasons = {folder / "example1": "broken", folder / "b.png": "corrupt"}
    file = move_to_quarantine(reasons, folder, other_file_system)
    assert not tree(folder)
    assert json.loads(file.read_text())["moved"] == [
        {"path": "example1", "why": "broken"},
        {"path": "b.png", "why": "corrupt"},
    ]
    assert restore(file) == 2
    assert tree(folder) == before
    assert (folder / "b.png").stat().st_mtime_ns == 5_000


def test_a_broken_off_move_and_a_broken_off_restoring_are_continued(tmp_path: Path) -> None:
    folder, paths = tmp_path / "data", [tmp_path / "data" / name for name in "abc"]
    folder.mkdir()
    for path in paths:
        path.write_text(path.name)
    file = move_to_quarantine(dict.fromkeys(paths, "why"), folder, tmp_path / "quarantine")
    (file.parent / "files" / "a").rename(folder / "a")  # as if it had never been moved, or is back already
    assert restore(file) == 2
    assert tree(folder) == {"a": b"a", "b": b"b", "c": b"c"}


def test_files_behind_a_link(tmp_path: Path) -> None:
    """A data folder whose images lie on a larger disk."""
    folder, disk = tmp_path / "data", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    (folder / "images").symlink_to(disk)
    (disk / "a.png").write_text("a")
    file = move_to_quarantine({folder / "images" / "a.png": "orphan"}, folder, folder / "quarantine")
    assert not tree(disk)
    assert restore(file) == 1
    assert tree(disk) == {"a.png": b"a"}


def test_a_taken_place_is_kept_and_the_others_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text("old")
    file = move_to_quarantine({folder / "a": "", folder / "b": ""}, folder, tmp_path / "quarantine")
    (folder / "a").write_text("new")
    with pytest.raises(LeapError, match="another one"):
        restore(file)
    assert tree(folder) == {"a": b"new", "b": b"old"}
    (folder / "a").unlink()
    assert restore(file) == 1
    assert tree(folder) == {"a": b"old", "b": b"old"}


def test_what_has_vanished_is_named_before_anything_moves(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text(name)
    file = move_to_quarantine({folder / "a": "", folder / "b": ""}, folder, tmp_path / "quarantine")
    (file.parent / "files" / "b").unlink()
    with pytest.raises(LeapError, match="b is neither"):
        restore(file)
    assert not tree(folder)


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../../b", ""])
def test_a_restore_file_that_points_outside_is_refused(tmp_path: Path, path: str) -> None:
    file = tmp_path / "restore.json"
    file.write_text(json.dumps({"folder": "data", "moved": [{"path": path, "why": ""}]}))
    with pytest.raises(LeapError, match=r"moved\.0\.path"):
        restore(file)


def test_no_restore_file(tmp_path: Path) -> None:
    with pytest.raises(LeapError, match="no such restore file"):
        restore(tmp_path / "restore.json")
