"""Which frame of an episode is the first, whatever the order, and its image."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from frame_archives import image, pixels, tar_gz
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leap.errors import LeapError
from leap.preparation.agibot import first_frames, png
from leap.preparation.agibot.archives import ArchiveError, GzipStream
from leap.preparation.agibot.first_frames import FirstFrames, natural_key
from leap.preparation.agibot.png import as_png, encode_png

# --- which frame is the first


@given(st.lists(st.integers(0, 10**30), unique=True), st.sampled_from(["", "frame_", "図", "a.1 "]))
def test_natural_order_is_that_of_the_numbers(numbers: list[int], before: str) -> None:
    names = [f"{before}{number}.jpg" for number in numbers]
    assert sorted(names, key=natural_key) == [f"{before}{number}.jpg" for number in sorted(numbers)]


@given(st.lists(st.text("0129aé٣²_.-", max_size=8)))
def test_natural_order_is_an_order_of_any_names(names: list[str]) -> None:
    keys = [natural_key(name) for name in names]
    assert sorted(sorted(keys, reverse=True)) == sorted(keys)
    assert len(set(keys)) == len(set(names))


def take(files: list[tuple[str, bytes]], task: str = "327") -> dict[str, tuple[str, bytes]]:
    """Episode -> (name, content) of its first frame."""
    found = {}
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        file.write(tar_gz(files))
        file.flush()
        chosen = FirstFrames(task, lambda episode, name, data: found.update({episode: (name, data)}))
        with GzipStream(Path(file.name)) as stream:
            chosen.take_all(stream)
    assert len(chosen) == len(found)
    return found


NAMES = st.text("0129a_", min_size=1, max_size=4).map(lambda text: f"{text}.jpg")
EPISODES = st.dictionaries(st.integers(0, 30), st.sets(NAMES, min_size=1, max_size=6), min_size=1, max_size=6)


@given(EPISODES, st.sampled_from(["", "327/", "./", "a/task_327/"]), st.integers(1, 3), st.integers(8, 300), st.data())
@settings(max_examples=60)
def test_the_first_frame_is_found_in_any_order(
    episodes: dict[int, set[str]], above: str, opened: int, room: int, data: st.DataObject
) -> None:
    members = [(episode, name) for episode, names in episodes.items() for name in names]
    files = [
        (f"{above}{episode}/{name}", f"{episode} {name} ".encode() * 9)
        for episode, name in data.draw(st.permutations(members))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_frames, "_OPEN_EPISODES", opened)
        patch.setattr(first_frames, "_OPEN_BYTES", room)
        found = take(files)
    first = {str(episode): min(names, key=natural_key) for episode, names in episodes.items()}
    assert found == {key: (name, f"{key} {name} ".encode() * 9) for key, name in first.items()}


def test_other_files_are_passed_over_and_of_two_with_one_name_the_later_counts() -> None:
    files = [("1/2.jpg", b"a"), ("1/info.json", b"b"), ("1/._0.jpg", b"c"), ("notes.txt", b"d"), ("1/2.jpg", b"e")]
    assert take([*files, ("./1/10.PNG", b"f"), ("1/camera/about.txt", b"g")]) == {"1": ("2.jpg", b"e")}


@pytest.mark.parametrize("above", ["", "frames/", "327/", "task_327/"])
def test_an_episode_may_have_the_tasks_number(above: str) -> None:
    """Where it is told from the task's own folder: episodes lie beside it, or it lies in the task's folder."""
    files = [(f"{above}{episode}/0.jpg", str(episode).encode()) for episode in (327, 328)]
    assert take(files) == {"327": ("0.jpg", b"327"), "328": ("0.jpg", b"328")}
    if "327" in above:
        assert take(files[:1]) == {"327": ("0.jpg", b"327")}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["327/1/head/0.jpg"], r"'327/1/head/0.jpg' is not named <episode>/<frame>.* it is 'head'"),
        (["0.jpg"], "it is ''"),
        (["327/0.jpg", "327/1.jpg"], "images lie directly in '327', which is the task's folder"),
        (["0327/0.jpg", "0327/1.jpg"], "images lie directly in '0327'"),
        (["task_0327/0327/0.jpg", "x/1/0.jpg", "task_0328/2/0.jpg"], "belongs to task 0328"),
        (["./image/327/648642-0.jpg"], "images lie directly in 'image/327'"),
        (["327/0.jpg", "327/648642/0.jpg"], "images lie directly in '327'"),
        (["327/648642/0.jpg", "327/cover.png"], "images lie directly in '327'"),
        (["328/1/0.jpg"], "belongs to task 328, and the file's name says task 327"),
        (["left/1/0.jpg", "right/1/0.jpg"], "episode 1 has two folders of frames, 'left/1' and 'right/1'"),
        (["1/about.txt"], "no frames"),
        ([], "no frames"),
        ([f"1/{'0' * 300}.jpg"], "a name of 306 letters"),
    ],
)
def test_another_layout_is_refused_in_one_line(files: list[str], message: str) -> None:
    with pytest.raises(ArchiveError, match=message) as raised:
        take([(name, b"") for name in files])
    assert "\n" not in str(raised.value)


def test_a_frame_larger_than_any_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_frames, "MAX_FRAME", 99)
    assert take([("1/0.jpg", bytes(9)), ("1/1.jpg", bytes(100))])["1"][1] == bytes(9)
    with pytest.raises(ArchiveError, match="an image of 100 bytes"):
        take([("1/0.jpg", bytes(100))])


# --- images


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "RGBA")])
def test_an_image_keeps_its_pixels(kind: str, mode: str) -> None:
    frame = image(1, kind, (37, 20), mode)
    made = as_png(frame)
    assert (made == frame) == (kind == "PNG")
    assert made.startswith(b"\x89PNG")
    assert np.array_equal(pixels(made), pixels(frame))


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([(), (3,)]), st.integers(0, 9), st.integers(1, 255))
@settings(max_examples=60)
def test_a_png_holds_exactly_these_pixels(
    height: int, width: int, channels: tuple[int, ...], seed: int, brightest: int
) -> None:
    made = np.random.default_rng(seed).integers(0, brightest, (height, width, *channels), np.uint8, endpoint=True)
    assert np.array_equal(pixels(encode_png(made)), made)


def test_a_cmyk_frame_becomes_rgb() -> None:
    frame = image(1, "JPEG", mode="CMYK")
    assert np.array_equal(pixels(as_png(frame)), np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")))


def test_what_is_no_whole_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = image(1, size=(64, 64))
    for broken in (frame[:-400], b"", b"GIF89a", image(1, "BMP"), image(1, "PNG", (64, 64))[:-400]):
        with pytest.raises(LeapError, match="cannot be decoded as an image"):
            as_png(broken)
    monkeypatch.setattr(png, "_MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(LeapError, match="64x64 pixels are too many"):
        as_png(frame)


@given(st.sampled_from(["JPEG", "PNG"]), st.integers(0, 700), st.binary(min_size=1, max_size=8))
@settings(max_examples=150)
def test_a_damaged_image_ends_as_an_image_or_as_an_error(kind: str, place: int, noise: bytes) -> None:
    frame = image(3, kind)
    try:
        made = as_png(frame[:place] + noise + frame[place + len(noise) :])
    except LeapError:
        return
    assert pixels(made).size
