"""check_and_clean_images.py --delete takes nobody's images: an orphan lies under the checked root, named by no file."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from test_image_check import SCRIPT, check, draw, make_root, sample

from leap.data.formats.stored_images import ImageFolder
from leap.data.image import resolve_image
from leap.errors import LeapError
from leap.preparation.check.image_audit import audit_images
from leap.preparation.check.image_facts import FactStore
from leap.preparation.check.orphans import Places, named_in
from leap.records.locks import FolderLock
from leap.records.quarantine import move_to_quarantine, restore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path)


def images(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.fixture
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one's own with two samples, their images, and an image that neither names."""
    folder = tmp_path_factory.mktemp("mine")
    for number, name in enumerate("abc"):
        draw(folder / "images" / f"{name}.png", number)
    (folder / "mine.jsonl").write_text(sample("images/a.png") + "\n" + sample("images/b.png") + "\n")
    return folder


def test_a_folder_of_ones_own_is_cleaned_and_the_workspace_is_left_alone(root: Path, mine: Path) -> None:
    draw(root / "data" / "images" / "9-9.png", 9)
    (root / "data" / "missing_task_ids.txt").write_text("7\n")
    before, own = images(root), images(mine)
    done, report = check(root, "--file", str(mine / "mine.jsonl"), "--image_root", str(mine), "--delete")
    assert done.returncode == 0, done.stderr
    assert report["orphans"] == [str(mine / "images" / "c.png")]
    assert images(root) == before
    assert (root / "data" / "missing_task_ids.txt").read_text() == "7\n"
    (file,) = (mine / "quarantine").glob("*/restore.json")
    again, report = check(root, "--file", str(mine / "mine.jsonl"), "--image_root", str(mine), "--delete")
    assert (again.returncode, report["orphans"], report["decoded"]) == (0, [], 0)
    assert restore(file) == 1
    assert images(mine) == own


def test_a_demo_workspace_has_no_orphans(workspace: Path, tmp_path: Path) -> None:
    """It has a numbered image of every scene, also where no sample names it."""
    for name in ("data", "dataset"):
        shutil.copytree(workspace / name, tmp_path / name)
    names = {path.name for path in (tmp_path / "data" / "images").iterdir()}
    unnamed = names - {Path(name).name for file in (tmp_path / "data").glob("*.jsonl") for name in named_in(file)}
    assert any(name.endswith("_numbered.png") for name in unnamed)
    done, report = check(tmp_path, "--no_decode")
    assert (done.returncode, report["orphans"]) == (0, [])
    draw(tmp_path / "data" / "images" / "other_numbered.png")
    assert len(check(tmp_path, "--no_decode")[1]["orphans"]) == 1


@pytest.mark.parametrize("image_root", ["data", "data/images", "link", "link/images", ".", "data/../data"])
def test_roots_that_overlap_keep_what_others_name(root: Path, image_root: str) -> None:
    """MINE names one image; train.jsonl and test.jsonl name the others, from other roots."""
    images_of = root / "data" / "images"
    (root / "link").symlink_to("data")
    name = os.path.relpath(images_of / "7-1.png", (root / image_root).resolve())
    (root / "mine").mkdir()
    (root / "mine" / "mine.jsonl").write_text(sample(name) + "\n")
    draw(images_of / "9-9.png", 9)
    draw(root / "docs" / "figure.png", 10)
    draw(root / "eva_results" / "plot.png", 11)
    before = images(root)
    done, report = check(root, "--file", "mine/mine.jsonl", "--image_root", image_root, "--delete")
    assert (done.returncode, len(report["orphans"])) == (0, 1), report
    moved = {Path(path).name for path in before.keys() - images(root).keys()}
    assert moved == {"9-9.png"}
    (file,) = root.glob("**/quarantine/*/restore.json")
    assert check(root, "--no_decode")[1]["orphans"] == []
    assert restore(file) == 1
    assert images(root) == before


def test_a_linked_folder_of_images_keeps_what_its_owner_names(root: Path, tmp_path_factory: Any) -> None:
    """Another workspace's images behind a link, some of them named by files that only their owner knows."""
    owner = make_root(tmp_path_factory.mktemp("owner"))
    draw(owner / "data" / "images" / "9-9.png", 9)
    draw(owner / "data" / "images" / "8-8.png", 8)
    (owner / "elsewhere.jsonl").write_text(sample("images/8-8.png") + "\n")
    before = images(owner)
    shutil.rmtree(root / "data" / "images")
    (root / "data" / "images").symlink_to(owner / "data" / "images")
    (root / "data" / "train.jsonl").write_text(sample("images/7-1.png") + "\n")
    (root / "data" / "test.jsonl").unlink()
    done, report = check(root, "--delete", "--no_decode")
    assert sorted(Path(orphan).name for orphan in report["orphans"]) == ["8-8.png", "9-9.png"]
    assert f"orphans outside {root / 'data'}, which are never moved: 2" in done.stdout
    assert images(owner) == before
    real = str(owner / "data" / "images")
    check(root, "--file", "data/train.jsonl", "--image_root", f"{real}/..", "--delete", "--no_decode")
    assert set(before) - set(images(owner)) >= {"data/images/9-9.png"}


def test_a_root_that_holds_the_workspace_is_searched_only_where_samples_have_images(root: Path) -> None:
    (root / "data" / "top.jsonl").write_text(sample("top.png") + "\n")
    for name in ("top.png", "figure.png", "output/curve.png"):
        draw(root / name)
    _, report = check(root, "--file", "data/top.jsonl", "--image_root", ".", "--no_decode")
    assert report["orphans"] == []


NFD = unicodedata.normalize("NFD", "é.png")
SPELLINGS: dict[str, tuple[str, str]] = {
    "plain": ("9-9.png", "images/9-9.png"),
    "from the data folder's parent": ("9-9.png", "data/images/9-9.png"),
    "through ..": ("9-9.png", "images/../images/9-9.png"),
    "from beside": ("9-9.png", "../images/9-9.png"),
    "absolute": ("9-9.png", "{root}/data/images/9-9.png"),
    "another case": ("9-9.PNG", "images/9-9.png"),
    "another Unicode form": (NFD, "images/é.png"),
    "the first rows' folder": ("9-9.png", "demo-data/images/9-9.png"),
    "another machine's folder": ("9-9.png", "/home/someone/leap/data/images/9-9.png"),
    "Windows": ("9-9.png", "images\\9-9.png"),
}
FORMS = {
    "a sample": lambda name: sample(name),
    "an array": lambda name: json.dumps([json.loads(sample(name))] * 2, indent=1),
    "ShareGPT": lambda name: json.dumps({"images": [name], "conversations": []}),
    "a cut line": lambda name: sample(name)[:-20],
    "a sample within a text": lambda name: json.dumps({"raw": sample(name)}),
    "escaped": lambda name: sample(name).replace("/", "\\/"),
}
FILES = ("val.jsonl", "blind_10.jsonl", "rows.json", "set/train_9.jsonl", "a/b/c/TEST.JSONL", "../mine.jsonl",
         "old.jsonl.bak", "rows.ndjson", "train.jsonl~")  # fmt: skip


@pytest.mark.parametrize(
    ("spelling", "form", "file"),
    [
        *((spelling, "a sample", FILES[0]) for spelling in SPELLINGS),
        *(("plain", form, FILES[0]) for form in FORMS),
        *(("plain", "a sample", file) for file in FILES),
        *(("absolute", form, "rows.json") for form in FORMS),
    ],
)
def test_what_any_known_file_names_is_no_orphan(root: Path, spelling: str, form: str, file: str) -> None:
    on_disk, name = SPELLINGS[spelling]
    draw(root / "data" / "images" / on_disk, 9)
    path = root / "data" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    for flags in (("--file", "data/train.jsonl"), ("--file", "data/train.jsonl", "--image_root", "data")):
        path.unlink(missing_ok=True)
        before = check(root, *flags, "--no_decode")[1]["orphans"]
        assert [Path(orphan).name for orphan in before] == [on_disk]
        path.write_text(FORMS[form](name.format(root=root)))
        assert check(root, *flags, "--no_decode", "--delete")[1]["orphans"] == []


def test_images_of_benchmark_examples_belong_together(workspace: Path, root: Path) -> None:
    """Samples that name an example's first image alone leave it its second one."""
    shutil.copytree(workspace / "dataset", root / "dataset")
    first = sorted((root / "dataset").rglob("input.png"))[0]
    before = images(root)
    for image_root in ("dataset", str(first.parent), str(first.parents[3])):
        name = os.path.relpath(first, root / image_root)
        (root / "data" / "mine.jsonl").write_text(sample(name) + "\n")
        done, report = check(root, "--file", "data/mine.jsonl", "--image_root", image_root, "--delete")
        assert (done.returncode, report["orphans"]) == (0, [])
    assert images(root) == before


def test_an_image_of_another_case_is_reported(root: Path) -> None:
    (root / "data" / "images" / "7-2.png").rename(root / "data" / "images" / "7-2.PNG")
    _, report = check(root)
    assert f"{root}/data/images/7-2.PNG is named almost so" in report["missing"]["images/7-2.png"]


def test_a_corrupt_image_outside_is_never_moved_whatever_it_is_called(root: Path) -> None:
    (root / "shared").mkdir()
    (root / "shared" / "x.png").write_text("broken")
    with (root / "data" / "train.jsonl").open("a") as file:
        file.write(sample("images/../../shared/x.png") + "\n")
    done, report = check(root, "--delete")
    assert len(report["corrupt"]) == 1
    assert "which are never moved: 1" in done.stdout
    assert done.stderr == "" or "Traceback" not in done.stderr
    assert (root / "shared" / "x.png").is_file()


def test_a_root_that_is_not_there_is_wrong_usage(root: Path) -> None:
    done = run_script(SCRIPT, "--image_root", "nowhere", root=root)
    assert done.returncode == 2
    assert "nowhere: there is no such folder" in done.stderr


# --- several at once


def test_two_that_move_images_at_once_are_refused(root: Path) -> None:
    draw(root / "data" / "images" / "9-9.png", 9)
    with FolderLock(root / "data" / "quarantine"):
        done = run_script(SCRIPT, "--delete", "--no_decode", root=root)
        assert check(root, "--no_decode")[1]["orphans"]  # who only looks may
    assert done.returncode == 1
    assert "another process" in done.stderr.splitlines()[-1]
    assert not list((root / "data" / "quarantine").glob("*/restore.json"))
    assert (root / "data" / "images" / "9-9.png").is_file()


def test_images_that_go_away_meanwhile_are_not_called_corrupt(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look, data = FactStore.look, root / "data"

    def late(self: FactStore, files: Any) -> Any:
        move_to_quarantine({data / "images" / "7-1.png": "by another"}, data, data / "quarantine")
        return look(self, files)

    monkeypatch.setattr(FactStore, "look", late)
    done, report = check(root)
    assert done.returncode == 1
    assert (report["corrupt"], report["vanished"]) == ({}, [str(data / "images" / "7-1.png")])
    assert "images that went away meanwhile" in done.stdout


@pytest.mark.slow
def test_two_real_ones_at_once_lose_nothing(root: Path) -> None:
    for number in range(300):
        draw(root / "data" / "images" / f"9-{number}.png", number)
    before = images(root / "data" / "images")
    command = [sys.executable, str(REPOSITORY / SCRIPT), "--delete"]
    environment = {**os.environ, "LEAP_ROOT": str(root), "PYTHONPATH": str(REPOSITORY)}
    both = [
        subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    ended = [(*process.communicate(), process.returncode) for process in both]
    for out, err, code in ended:
        assert "Traceback" not in err
        assert (code == 0 and "corrupt                    0" in out) or (code == 1 and "another process" in err)
    assert 0 in [code for *_, code in ended]
    for file in (root / "data" / "quarantine").glob("*/restore.json"):
        restore(file)
    assert images(root / "data" / "images") == before


def test_two_that_restore_at_once_lose_nothing(root: Path) -> None:
    draw(root / "data" / "images" / "9-9.png", 9)
    check(root, "--delete", "--no_decode")
    (file,) = (root / "data" / "quarantine").glob("*/restore.json")
    with FolderLock(file.parent), pytest.raises(LeapError, match="another process"):
        restore(file)
    assert restore(file) == 1
    assert not (root / "data" / "quarantine").exists() or not list((root / "data" / "quarantine").iterdir())
    with pytest.raises(LeapError, match="no such restore file"):
        restore(file)


# --- where the first rows say that their images are


@pytest.mark.parametrize("roots", [("data",), ("data/images",), ("", "data")])
@pytest.mark.parametrize("name", ["demo-data/images/7-1.png", "/somewhere/demo-data/images/7-1.png"])
def test_the_first_rows_images_are_found(root: Path, roots: tuple[str, ...], name: str) -> None:
    places = [root / place for place in roots]
    assert resolve_image(name, places) == root / "data" / "images" / "7-1.png"
    (root / "data" / "train.jsonl").write_text(sample(name) + "\n")
    audit = audit_images(
        [root / "data" / "train.jsonl"], places, Places(root, root / "data"), None, ImageFolder(root / "cache")
    )
    assert not audit.missing
    assert not [path for path in audit.orphans if "7-1" in path]


def test_a_name_that_is_there_as_it_stands_comes_first(root: Path) -> None:
    plain = draw(root / "demo-data" / "images" / "7-1.png", 3)
    assert resolve_image("demo-data/images/7-1.png", [root, root / "data"]) == plain


TREES = st.lists(st.sampled_from(["a", "b", "é", "images", "data"]), min_size=0, max_size=2).map("/".join)
BASES = st.sampled_from(["1.png", "2.PNG", "3.jpg", "é.png"])
NAMED = st.tuples(TREES, BASES).map(lambda parts: "/".join(filter(None, parts)))
WAYS = st.sampled_from(["{}", "./{}", "x/../{}", "{root}/{}", "data/images/{}", "images/{}", "../images/{}"])


@settings(max_examples=60)
@given(files=st.sets(NAMED, min_size=1, max_size=6), rows=st.lists(st.tuples(WAYS, NAMED), min_size=1, max_size=5))
def test_an_image_that_a_sample_finds_is_never_an_orphan(files: set[str], rows: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name in files:
            (root / "data" / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "data" / "images" / name).touch()
        (root / "data" / "x").mkdir(exist_ok=True)
        names = [way.format(name, root=root / "data" / "images") for way, name in rows]
        (root / "data" / "own.jsonl").write_text(sample(names[0]) + "\n")
        (root / "data" / "others.jsonl").write_text("".join(sample(name) + "\n" for name in names[1:]))
        roots = [root, root / "data"]
        for given_root in (None, root, root / "data", root / "data" / "images"):
            starts = [given_root] if given_root else roots
            places = Places(root, root / "data", given_root)
            orphans = audit_images(
                [root / "data" / "own.jsonl"], starts, places, None, ImageFolder(root / "cache")
            ).orphans
            found = [path for start in (starts, roots) for name in names for path in _found(name, start)]
            assert not {Path(orphan).resolve() for orphan in orphans} & set(found)
            assert all(Path(orphan).is_relative_to(given_root or root / "data" / "images") for orphan in orphans)


def _found(name: str, roots: list[Path]) -> list[Path]:
    with suppress(LeapError):
        return [resolve_image(name, roots)]
    return []
