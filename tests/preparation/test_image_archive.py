"""images.tar.gz, which the published samples come with: unpacked whole or not at all, and over nobody's image."""

import random
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import Finished, run_script
from downloading import on_disk, online
from frame_archives import image, tar_bytes, tar_gz
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.hub import HubServer
from servers.hub_store import Stored
from test_crash_safety import killed_at
from test_image_check import sample
from test_prepare_love_agibot import LINES_OF

from leap.data.image import resolve_image
from leap.errors import LeapError
from leap.preparation.agibot.archives import ArchiveError, GzipStream
from leap.preparation.agibot.image_archive import _AllImages, unpack_images
from leap.preparation.check.find_images import find_images

__all__ = ["online"]  # a fixture that every test here uses

SCRIPT = "scripts/utils/unpack_images.py"
CONTENT = {f"327-{number}.png": image(number, "PNG") for number in range(6)} | {"sub/8-1.jpg": image(9)}


def packed(above: str = "images/") -> list[tuple[str, bytes]]:
    return [(f"{above}{name}", data) for name, data in CONTENT.items()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with the archive and samples that name its images."""
    (tmp_path / "data").mkdir()
    archive_of(tmp_path).write_bytes(tar_gz(packed()))
    (tmp_path / "data" / "train.jsonl").write_text("".join(sample(f"images/{name}") + "\n" for name in CONTENT))
    return tmp_path


def archive_of(root: Path) -> Path:
    return root / "data" / "images.tar.gz"


def unpacked(root: Path) -> dict[str, bytes]:
    """The images that are in place."""
    folder = root / "data" / "images"
    found = (path for path in folder.rglob("*") if path.is_file() and ".first_frames" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def script(root: Path, *flags: str) -> Finished:
    return run_script(SCRIPT, *flags, root=root)


def test_it_is_unpacked_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "to do" in script(root, "--dry_run").stdout
    assert not (root / "data" / "images").exists()
    done = script(root)
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 images of" in done.stdout
    assert "7 of them new" in done.stdout
    assert unpacked(root) == CONTENT
    checked = run_script("scripts/utils/check_and_clean_images.py", root=root)
    assert checked.returncode == 0, checked.stdout
    monkeypatch.setattr(GzipStream, "__enter__", lambda self: pytest.fail("the archive is read again"))
    assert "0 of them new" in script(root).stdout
    (root / "data" / "images" / "327-1.png").unlink()
    monkeypatch.undo()
    monkeypatch.setenv("LEAP_ROOT", str(root))
    assert "1 of them new" in script(root).stdout
    assert unpacked(root) == CONTENT


@pytest.mark.parametrize("above", ["images/", "./images/", "data/images/", "/".join(["a"] * 9) + "/images/"])
def test_whatever_lies_above_the_folder_of_images(root: Path, above: str) -> None:
    odd = [("images/.DS_Store", b"x"), ("__MACOSX/images/._327-1.png", b"x"), ("data/train.jsonl", b"{}")]
    archive_of(root).write_bytes(tar_gz([*odd, *packed(above), ("images/.ipynb_checkpoints/327-1.png", b"x")]))
    assert script(root).returncode == 0
    assert unpacked(root) == CONTENT


def test_an_archive_without_folders_is_one_of_images(root: Path) -> None:
    files = [(name, data) for name, data in CONTENT.items() if "/" not in name]
    archive_of(root).write_bytes(tar_gz(files))
    assert script(root).returncode == 0
    assert unpacked(root) == dict(files)


def test_what_is_there_already_is_kept(root: Path) -> None:
    images = root / "data" / "images"
    images.mkdir()
    (images / "327-1.png").write_bytes(CONTENT["327-1.png"])
    (images / "327-2.png").write_bytes(b"mine")
    (images / "327-3.png").mkdir()
    (images / "other.png").write_bytes(b"mine too")
    before = (images / "327-1.png").stat().st_mtime_ns
    for new in (4, 0):
        done = script(root)
        assert done.returncode == 1
        assert f"5 images of {archive_of(root)}, {new} of them new" in done.stdout
        (line,) = done.stderr.splitlines()
        assert "2 images not unpacked (image 327-2.png, another image of this name is there" in line
    assert (images / "327-1.png").stat().st_mtime_ns == before
    assert unpacked(root) == {
        **{name: data for name, data in CONTENT.items() if name != "327-3.png"},
        "327-2.png": b"mine",
        "other.png": b"mine too",
    }
    (images / "327-2.png").unlink()
    (images / "327-3.png").rmdir()
    assert script(root).returncode == 0
    assert unpacked(root) == {**CONTENT, "other.png": b"mine too"}


def test_a_file_in_the_place_of_a_folder_is_kept_and_named(root: Path) -> None:
    images = root / "data" / "images"
    images.mkdir()
    (images / "sub").write_bytes(b"mine")
    for _ in range(2):
        done = script(root)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "1 images not unpacked (image sub/8-1.jpg, another image of this name is there" in line
        assert unpacked(root) == {**{name: data for name, data in CONTENT.items() if "/" not in name}, "sub": b"mine"}
    (images / "sub").unlink()
    assert script(root).returncode == 0
    assert unpacked(root) == CONTENT


def _link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


FLIPPED = bytearray(tar_gz(packed()))
FLIPPED[len(FLIPPED) // 2] ^= 4
HOSTILE = {
    "truncated": (tar_gz(packed())[:-9], "the file ends too early"),
    "flipped": (bytes(FLIPPED), "at byte"),
    "not gzip": (tar_bytes(packed()), "not valid gzip data"),
    "..": (tar_gz([*packed(), ("images/../../out.png", b"x")]), "no plain relative name"),
    "absolute": (tar_gz([*packed(), ("/images/out.png", b"x")]), "no plain relative name"),
    "a link": (tar_gz(packed(), odd=[_link("images", "/tmp")]), "a link, a device"),
    "another folder": (tar_gz([*packed(), ("elsewhere/out.png", b"x")]), "lies in no images/ folder"),
    "a newline": (tar_gz([*packed(), ("images/a\nb.png", b"x")]), "is no name for an image"),
    "too long a name": (tar_gz([*packed(), (f"images/{'é' * 130}.png", b"x")]), "is no name for an image"),
    "too large an image": (tar_gz([*packed(), ("images/a.png", bytes(1 << 26))]), "an image of 67,108,864 bytes"),
    "two of one name": (tar_gz([*packed("a/images/"), ("b/images/327-1.png", b"x")]), "would both become images/327-1"),
    "one without a folder": (tar_gz([*packed(), ("327-1.png", b"x")]), "would both become images/327-1.png"),
    "an image as folder": (tar_gz([*packed(), ("images/327-1.png/a.png", b"x")]), "'327-1.png' is an image, and has"),
    "no images": (tar_gz([("images/a.txt", b"x")]), "no images in it"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_of_a_broken_or_hostile_archive_is_put_in_place(root: Path, kind: str) -> None:
    content, words = HOSTILE[kind]
    archive_of(root).write_bytes(content)
    before = {path for path in root.rglob("*") if "images" not in path.parts}
    done = script(root)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert words in line
    assert str(archive_of(root)) in line
    assert unpacked(root) == {}
    assert "0 images of" in done.stdout
    assert "0 of them new" in done.stdout
    assert {path for path in root.rglob("*") if "images" not in path.parts} == before


def test_wrong_calls_are_reported_in_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = script(root, "--archive", "nowhere.tar.gz")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "there is no such archive" in done.stderr
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    assert "1 byte" in script(root).stderr
    assert not (root / "data" / "images").exists()


def test_killed_at_any_line_the_same_call_ends_as_an_unbroken_one(root: Path) -> None:
    rng, killed = random.Random(3), 0
    for _ in range(6):
        shutil.rmtree(root / "data" / "images", ignore_errors=True)
        for _ in range(3):
            line = int(10 ** rng.uniform(2, 3.2))
            killed += killed_at(line, lambda: unpack_images(archive_of(root), root / "data" / "images"), LINES_OF)
            assert unpacked(root).items() <= CONTENT.items()
        unpack_images(archive_of(root), root / "data" / "images")
        assert unpacked(root) == CONTENT
        assert not [path for path in (root / "data" / "images" / ".first_frames").iterdir() if path.is_dir()]
    assert killed > 9


COMPONENTS = st.lists(st.sampled_from(["images", "a", "b.png", "..", ".", "", "data", "é", "\n", ".x"]), max_size=6)


@settings(max_examples=150)
@given(st.lists(COMPONENTS, max_size=3))
def test_no_name_leads_out_of_the_folder(tmp_path_factory: pytest.TempPathFactory, names: list[list[str]]) -> None:
    files = [("/".join([*parts, "x.png"]), b"data") for parts in names]
    path = tmp_path_factory.getbasetemp() / "any.tar.gz"
    path.write_bytes(tar_gz(files))
    settled: list[str] = []

    class Store:
        def settle(self, name: str, frame: str, data: bytes) -> None:
            settled.append(name)

    try:
        with GzipStream(path) as stream:
            _AllImages(Store()).take_all(stream)  # type: ignore[arg-type]
    except ArchiveError:
        pass
    for name in settled:
        assert not {"..", "", "."} & set(name.split("/"))
        assert name.isprintable()


# --- where the archive comes from, and where samples look for its images


def test_missing_images_name_the_archive(root: Path) -> None:
    roots = [root, root / "data"]
    words = f"unpack it first: python scripts/utils/unpack_images.py --archive {archive_of(root)}"
    with pytest.raises(LeapError, match=words):
        resolve_image("images/327-1.png", roots)
    with pytest.raises(LeapError, match=words):
        resolve_image("327-1.png", [root / "data" / "images"])
    assert words in find_images(["images/327-1.png"], roots).missing[0]
    checked = run_script("scripts/utils/check_and_clean_images.py", root=root)
    assert (checked.returncode, words in checked.stdout) == (1, True)


def test_a_download_unpacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"images.tar.gz": tar_gz(packed()), "train_151230.jsonl": (sample("images/327-1.png") + "\n").encode()}
    with HubServer([Stored("EvanSirius/leap-agibot-processed", "dataset", files)]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for new in (7, 0):
            done = run_script("scripts/download/download_leap_data.py", root=tmp_path)
            assert done.returncode == 0, done.stderr
            assert f"7 images of {archive_of(tmp_path)}, {new} of them new" in done.stdout
        assert unpacked(tmp_path) == CONTENT
        shutil.rmtree(tmp_path / "data")
        assert run_script("scripts/download/download_leap_data.py", "--dry_run", root=tmp_path).returncode == 0
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


def test_an_archive_that_the_hub_knows_otherwise_is_refused(root: Path) -> None:
    metadata = root / "data/.cache/huggingface/download/images.tar.gz.metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"{'c' * 40}\n{'0' * 64}\n1700000000.0\n")
    done = script(root)
    assert done.returncode == 1
    assert "and the hub's is 000" in done.stderr
    assert unpacked(root) == {}


def test_annotations_come_with_their_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ["image/task_327.tar.gz", "json/output_327.json", "image/task_352.tar.gz", "json/output_352.json", "a.json"]
    stored = Stored("EvanSirius/LOVE-Agibot-Beta", "dataset", {path: path.encode() for path in paths})
    with HubServer([stored]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        flags = ("--love_agibot", "--tasks", "327")
        assert run_script("scripts/download/download_leap_data.py", *flags, root=tmp_path).returncode == 0
    folder = tmp_path / "data" / "love_agibot"
    assert set(on_disk(folder)) == set(paths[:2])
