"""check_and_clean_images.py: what is missing, broken or left over is found; nothing is lost or decoded twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, Finished, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leap.data.image import resolve_image
from leap.errors import LeapError
from leap.preparation.check.find_images import find_images
from leap.preparation.check.image_facts import FactStore
from leap.records.locks import FolderLock

SCRIPT = "scripts/utils/check_and_clean_images.py"


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8))
    small.resize((64, 48)).save(path)
    return path


def sample(*images: str) -> str:
    parts = [{"type": "image", "image": image} for image in images]
    content = [*parts, {"type": "text", "text": "What now?"}]
    return json.dumps({"messages": [{"role": "user", "content": content}], "target": {"steps": "1) Go."}})


def make_root(folder: Path) -> Path:
    """A LEAP_ROOT with three good samples of tasks 7 and 12, and two files of samples."""
    images = folder / "data" / "images"
    for number, name in enumerate(("7-1", "7-2", "12-1")):
        draw(images / f"{name}.png", number)
    (folder / "data" / "train.jsonl").write_text(sample("images/7-1.png") + "\n" + sample("images/7-2.png") + "\n")
    (folder / "data" / "test.jsonl").write_text(sample("images/12-1.png", "images/7-1.png") + "\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path)


def check(root: Path, *flags: str) -> tuple[Finished, dict[str, Any]]:
    done = run_script(SCRIPT, *flags, root=root)
    assert done.returncode in (0, 1), done.stderr
    return done, json.loads((root / ".cache" / "images" / "report.json").read_text())


def damage(root: Path) -> None:
    """One of each fault."""
    data = root / "data"
    (data / "images" / "7-2.png").write_bytes((data / "images" / "7-2.png").read_bytes()[:200])
    (data / "images" / "12-1.png").unlink()
    draw(data / "images" / "9-9.png", 9)
    draw(data / "images" / ".unfinished" / "9-10.png", 9)
    (data / "images" / "notes.txt").write_text("no image")
    with (data / "train.jsonl").open("a") as file:
        file.write('{"messages": []}\n' + sample("images/100-4.png") + "\n")


def test_a_whole_folder_is_left_alone(root: Path) -> None:
    done, report = check(root)
    assert done.returncode == 0
    counts = report["rows"], report["images"], report["decoded"], report["missing"], report["corrupt"]
    assert counts == (3, 3, 3, {}, {})
    assert (root / "data" / "missing_task_ids.txt").read_text() == ""
    assert "dry run" not in done.stdout


def test_every_fault_is_reported_with_its_place(root: Path) -> None:
    damage(root)
    data = root / "data"
    done, report = check(root)
    assert done.returncode == 1
    assert set(report["missing"]) == {"images/12-1.png", "images/100-4.png"}
    assert f"{data / 'test.jsonl'}:1" in report["missing"]["images/12-1.png"]
    assert f"{data / 'train.jsonl'}:4" in report["missing"]["images/100-4.png"]
    assert list(report["corrupt"]) == [str(data / "images" / "7-2.png")]
    assert f"{data / 'train.jsonl'}:2" in report["corrupt"][str(data / "images" / "7-2.png")]
    assert report["orphans"] == [str(data / "images" / "9-9.png")]
    assert list(report["invalid_rows"]) == [f"{data / 'train.jsonl'}:3"]
    assert (data / "missing_task_ids.txt").read_text() == "7\n12\n100\n"
    assert "dry run: --quarantine would move 2 images" in done.stdout
    assert (data / "images" / "9-9.png").is_file()


@pytest.mark.parametrize("flag", ["--delete", "--no_dry_run"])
def test_delete_moves_away_and_restore_brings_back(root: Path, flag: str) -> None:
    damage(root)
    images = root / "data" / "images"
    before = {path.name: path.read_bytes() for path in images.iterdir() if path.is_file()}
    check(root, flag)
    assert sorted(path.name for path in images.iterdir()) == [".unfinished", "7-1.png", "notes.txt"]
    (file,) = (root / "data" / "quarantine").glob("*/restore.json")
    assert "cannot be decoded" in file.read_text()
    again, report = check(root, flag)
    assert (report["corrupt"], report["orphans"]) == ({}, [])
    assert "images/7-2.png" in report["missing"]
    assert "dry run" not in again.stdout
    assert run_script(SCRIPT, "--restore", str(file), root=root).returncode == 0
    assert {path.name: path.read_bytes() for path in images.iterdir() if path.is_file()} == before
    check(root, flag, "--keep_orphans")
    assert sorted(path.name for path in images.glob("[!.]*")) == ["7-1.png", "9-9.png", "notes.txt"]


def test_one_file_is_checked_and_the_others_keep_their_images(root: Path) -> None:
    damage(root)
    _, report = check(root, "--file", "data/test.jsonl", "--no_decode")
    assert (list(report["missing"]), report["rows"], report["invalid_rows"]) == (["images/12-1.png"], 1, {})
    assert report["orphans"] == [str(root / "data" / "images" / "9-9.png")]
    assert (report["decoded"], report["corrupt"]) == (0, {})


def test_without_samples_images_are_decoded_and_none_is_an_orphan(root: Path) -> None:
    damage(root)
    for file in (root / "data").glob("*.jsonl"):
        file.unlink()
    done, report = check(root)
    assert done.returncode == 1
    assert (report["orphans"], list(report["corrupt"])) == ([], [str(root / "data" / "images" / "7-2.png")])
    assert (root / "data" / "missing_task_ids.txt").read_text() == "7\n"


def test_links_make_no_orphans_and_what_lies_elsewhere_is_never_moved(root: Path, tmp_path: Path) -> None:
    data, disk, elsewhere = root / "data", root / "disk", root / "elsewhere"
    (data / "images").rename(disk)
    (data / "images").symlink_to(disk)
    draw(disk / "real.png", 5)
    (disk / "link.png").symlink_to("real.png")
    draw(elsewhere / "there.png").write_text("broken")
    with (data / "train.jsonl").open("a") as file:
        file.write(sample("images/link.png", str(disk / "7-1.png"), str(elsewhere / "there.png")) + "\n")
    done, report = check(root, "--delete")
    assert report["orphans"] == []
    assert "outside" in done.stdout
    assert (elsewhere / "there.png").is_file()


def test_two_files_for_one_name_are_a_fault(root: Path) -> None:
    draw(root / "images" / "7-1.png", 8)
    _, report = check(root, "--no_decode")
    assert "two different files" in report["missing"]["images/7-1.png"]


def test_only_changed_images_are_decoded_again(root: Path) -> None:
    images = root / "data" / "images"
    assert check(root)[1]["decoded"] == 3
    assert check(root)[1]["decoded"] == 0
    draw(images / "7-1.png", 50)
    status = (images / "7-2.png").stat()
    os.utime(images / "7-2.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert check(root)[1]["decoded"] == 2
    content = (images / "12-1.png").read_bytes()
    (images / "12-1.png").write_bytes(content[:100])
    assert len(check(root)[1]["corrupt"]) == len(check(root)[1]["corrupt"]) == 1
    (images / "12-1.png").write_bytes(content)
    assert check(root)[1]["decoded"] == 1
    assert check(root)[0].returncode == 0


def test_two_looks_at_once_are_refused(root: Path) -> None:
    with FolderLock(root / ".cache" / "images"):
        done = run_script(SCRIPT, root=root)
    assert done.returncode == 1
    assert "another process" in done.stderr


def test_no_folder_is_wrong_usage(tmp_path: Path) -> None:
    assert run_script(SCRIPT, root=tmp_path).returncode == 2
    assert run_script(SCRIPT, "--data_dir", "nowhere", root=tmp_path).returncode == 2


COMPONENTS = st.lists(st.sampled_from(["images", "a.png", "b.png", "sub", "..", ".", "", "\0", "x" * 300]), max_size=4)


@settings(max_examples=120)
@given(parts=COMPONENTS)
def test_images_are_found_where_a_sample_finds_them(tmp_path_factory: Any, parts: list[str]) -> None:
    base = tmp_path_factory.getbasetemp() / "listing"
    if not base.exists():
        for name in ("images/a.png", "data/images/a.png", "data/images/b.png", "data/images/sub/b.png", "data/a.png"):
            draw(base / name)
    image, roots = "/".join(parts), [base, base / "data"]
    found = find_images([image], roots)
    try:
        expected = resolve_image(image, roots)
    except (LeapError, OSError, ValueError):
        assert found.missing
    else:
        assert Path(found.files[0]).resolve() == expected


@pytest.mark.slow
def test_a_killed_look_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 between two writes of the store: the next look decodes only the rest."""
    files = [str(draw(tmp_path / "images" / f"{number}.png", number)) for number in range(1200)]
    code = (
        "import sys, leap.preparation.check.image_facts as f\n"
        "f._STORE_EVERY = 64\n"
        "from pathlib import Path\n"
        "f.FactStore(Path(sys.argv[1])).look(sys.argv[2:])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *files], cwd=REPOSITORY)
    while not list((tmp_path / "images").glob("facts-*.arrow")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    looked = FactStore(tmp_path).look(files)
    assert 0 < looked.decoded < 1200
    assert len(looked.facts) == 1200


def test_a_damaged_store_is_made_again(root: Path) -> None:
    check(root)
    (store,) = (root / ".cache" / "images").glob("*.arrow")
    content = store.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:400] + b"x" + content[401:]):
        store.write_bytes(damaged)
        done, _ = check(root)
        assert done.returncode == 0
        assert f"{store}: damaged" in done.stderr
        assert store.read_bytes() == content


def test_names_that_are_not_utf8_are_images_like_others(root: Path) -> None:
    name = os.fsdecode(b"7-\xff.png")
    draw(root / "data" / "images" / name, 9)
    for _ in range(2):  # found, and found in the store
        done, _ = check(root)
        assert "7-\\udcff.png" in done.stdout
        assert "Traceback" not in done.stderr
    done, _ = check(root, "--delete")
    assert not (root / "data" / "images" / name).exists()
    done = run_script(SCRIPT, "--restore", done.stdout.split("--restore ")[1].split()[0], root=root)
    assert done.returncode == 0, done.stderr
    assert (root / "data" / "images" / name).exists()


def test_files_of_any_form_are_checked(root: Path) -> None:
    """An array of ShareGPT's, a table of images in bytes; what only a table names is no orphan."""
    turns = [{"from": "human", "value": "<image>What now?"}, {"from": "gpt", "value": "1) Go."}]
    shown = [{"conversations": turns, "image": f"images/{name}.png"} for name in ("7-1", "gone")]
    (root / "theirs.json").write_text(json.dumps([*shown, {"conversations": turns}]))
    content, table = (root / "data" / "images" / "7-2.png").read_bytes(), root / "theirs.parquet"
    rows = [{"conversations": turns, "image": image} for image in ({"bytes": content}, {"bytes": content[:90]})]
    pq.write_table(pa.Table.from_pylist(rows), table)
    done, report = check(root, "--file", str(root / "theirs.json"), str(table))
    assert done.returncode == 1
    assert (report["rows"], list(report["missing"])) == (4, ["images/gone.png"])
    assert report["invalid_rows"] == {f"{root / 'theirs.json'}:3": ANY}
    ((broken, reason),) = report["corrupt"].items()
    assert Path(broken).parent == root / ".cache" / "training" / "images"
    assert f"{table}:2" in reason
    paths = [{"conversations": turns, "image": str(root / "data" / "images" / "9-9.png")}]
    draw(root / "data" / "images" / "9-9.png")
    pq.write_table(pa.Table.from_pylist(paths), table)
    assert check(root)[1]["orphans"] == [str(root / "data" / "images" / "9-9.png")]
    assert check(root, "--file", str(table))[1]["orphans"] == []


def test_a_file_of_no_form_is_named_once_and_others_are_checked(root: Path) -> None:
    (root / "data" / "notes.jsonl").write_text('{"prompt": "a"}\n' * 3)
    done, report = check(root)
    assert (done.returncode, report["rows"]) == (1, 3)
    ((place, reason),) = report["invalid_rows"].items()
    assert place == f"{root / 'data' / 'notes.jsonl'}:1"
    assert reason.startswith("samples are not understood (keys: prompt)")
