"""Images as models see them: upright by EXIF, on white, eight bits a channel; what cannot be told is refused."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_RECIPE, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leap.data.image import BlankImage, ImageSize, load_image
from leap.data.image_urls import image_url
from leap.errors import LeapError
from leap.preparation.agibot.png import as_png
from leap.preparation.check import checked_dataset, image_facts
from leap.preparation.check.image_facts import FactStore

ORIENTATION = 0x0112
# How a viewer turns the stored pixels [height, width, ...] (EXIF 2.32, table 6).
UPRIGHT: dict[int, Callable[[Any], Any]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}
LOSSLESS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"),
    "WEBP": ("RGB", "RGBA"),
}
KINDS = [(kind, mode) for kind, modes in LOSSLESS.items() for mode in modes]
ANY_SIZE = ImageSize(1, 4096)


def noise(seed: int, height: int = 9, width: int = 14, channels: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[ORIENTATION] = orientation
    return made


def saved(path: Path, image: Image.Image, kind: str, **options: Any) -> Path:
    image.save(path, kind, **{"lossless": True} if kind == "WEBP" else {}, **options)
    return path


def shown(path: Path) -> np.ndarray:
    return np.asarray(load_image(path))


def sent(path: Path) -> np.ndarray:
    """What a server decodes of the image that it is sent. Its reader turns nothing and knows no transparency."""
    url = image_url(path, ANY_SIZE)
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


@settings(max_examples=150)
@given(st.sampled_from(KINDS), st.sampled_from(sorted(UPRIGHT)), st.integers(0, 9))
def test_every_mode_is_upright_and_on_white(
    tmp_path_factory: pytest.TempPathFactory, kind: tuple[str, str], orientation: int, seed: int
) -> None:
    form, mode = kind
    channels = 3 if kind in (("TIFF", "P"), ("TIFF", "LAB")) else 4  # those cannot hold alpha
    stored = Image.fromarray(noise(seed, channels=channels)).convert(mode)
    path = saved(tmp_path_factory.getbasetemp() / f"any.{form}", stored, form, exif=exif(orientation))
    colours = np.asarray(stored.convert("RGBA"), np.float64)
    alpha = colours[..., 3:] / 255
    expected = UPRIGHT[orientation](alpha * colours[..., :3] + (1 - alpha) * 255)
    found = shown(path).astype(float)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    opaque = UPRIGHT[orientation](np.repeat(alpha, 3, axis=2)) == 1
    assert np.array_equal(found[opaque], expected[opaque])
    height, width, _ = found.shape
    assert load_image(BlankImage(path)).size == (width, height)


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_photographs_are_upright(tmp_path: Path, mode: str, orientation: int) -> None:
    stored = Image.fromarray(noise(3, channels=3)).convert(mode)
    path = saved(tmp_path / "photo.jpg", stored, "JPEG", exif=exif(orientation), quality=95)
    with Image.open(path) as image:
        expected = UPRIGHT[orientation](np.asarray(image.convert("RGB")))
    assert np.array_equal(shown(path), expected)
    frame = np.asarray(Image.open(io.BytesIO(as_png(path.read_bytes()))).convert("RGB"))
    assert np.array_equal(frame, expected)


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, mode in KINDS if mode.endswith("A")])
def test_colours_under_transparent_pixels_are_never_seen(tmp_path: Path, kind: str, mode: str) -> None:
    seen = []
    for seed in (1, 2):
        pixels = noise(seed)
        pixels[2:5, 3:6], pixels[..., 3] = 77, 0
        pixels[2:5, 3:6, 3] = 255
        image = Image.fromarray(pixels)
        seen.append(shown(saved(tmp_path / f"{seed}.{kind}", image.convert(mode), kind, exact=True)))
    assert np.array_equal(*seen)
    assert (seen[0][0, 0] == 255).all()
    assert (seen[0][3, 4] == 77).all()


def test_a_transparent_colour_of_a_palette_or_of_grey_is_white(tmp_path: Path) -> None:
    pixels = np.array([[0, 1], [2, 0]], np.uint8)
    palette = Image.fromarray(pixels).convert("P")
    palette.putpalette([9, 9, 9, 0, 255, 0, 0, 0, 255])
    green, blue, white = [0, 255, 0], [0, 0, 255], [255, 255, 255]
    for name in ("a.png", "a.gif"):
        palette.save(tmp_path / name, transparency=0)
        assert shown(tmp_path / name).tolist() == [[white, green], [blue, white]]
    Image.fromarray(pixels).save(tmp_path / "grey.png", transparency=2)
    assert shown(tmp_path / "grey.png").tolist() == [[[0] * 3, [1] * 3], [white, [0] * 3]]


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (64, 32), colour) for colour in ("red", "blue"))
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        options = {"lossless": True} if name == "a.webp" else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        assert (shown(tmp_path / name) == [255, 0, 0]).all(), name
        assert np.array_equal(sent(tmp_path / name), shown(tmp_path / name))


# --- pixels of more than eight bits


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, before: bytes = b"", behind: bytes = b"", bits: int = 16) -> bytes:
    """A colour PNG, [height, width, 3], with chunks before and behind its pixels; PIL writes none of 16 bits."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows)) + behind + chunk(b"IEND", b"")


def of_few_bits(bits: int) -> bytes:
    """A grey PNG, 8x1, in which the second darkest grey means transparent."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" + bytes(range(1, bits + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", struct.pack(">H", 1)) + rows + chunk(b"IEND", b"")


DEPTH = np.linspace(400, 4000, 9 * 14).reshape(9, 14)
UNTOLD = {
    "depth.png": lambda path: Image.fromarray(DEPTH.astype(np.uint16)).save(path),
    "grey.png": lambda path: Image.fromarray((DEPTH * 16).astype(np.uint16)).save(path),
    "grey.tiff": lambda path: Image.fromarray(DEPTH.astype(np.uint16)).save(path),
    "whole.tiff": lambda path: Image.fromarray(DEPTH.astype(np.int32)).save(path),
    "float.tiff": lambda path: Image.fromarray((DEPTH / 4000).astype(np.float32)).save(path),
    "grey.pgm": lambda path: Image.fromarray(DEPTH.astype(np.int32)).save(path),
    "four.png": lambda path: path.write_bytes(of_few_bits(4)),
    "two.png": lambda path: path.write_bytes(of_few_bits(2)),
    "keyed.png": lambda path: path.write_bytes(png(noise(1)[..., :3], chunk(b"tRNS", struct.pack(">HHH", 9, 9, 9)))),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_what_has_no_known_black_and_white_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    UNTOLD[name](path)
    for load in (load_image, lambda source: image_url(source, ANY_SIZE)):
        with pytest.raises(LeapError, match="8 bits a channel") as refused:
            load(path)
        assert str(refused.value).startswith(f"{path}: ")
        assert len(str(refused.value).splitlines()) == 1
    looked = FactStore(tmp_path / "cache").look([str(path)])
    assert not looked.facts
    assert name in looked.broken[str(path)]


def test_colours_of_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (32, 64, 3))
    (tmp_path / "a.png").write_bytes(png(values))
    assert np.array_equal(shown(tmp_path / "a.png"), values >> 8)
    assert np.array_equal(sent(tmp_path / "a.png"), values >> 8)


# --- servers


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.sampled_from(sorted(UPRIGHT)), st.booleans())
def test_a_server_is_sent_what_this_process_would_see(
    tmp_path_factory: pytest.TempPathFactory, kind: tuple[str, str], orientation: int, ready: bool
) -> None:
    """Whether its size is right already or not; a server's reader may know neither EXIF nor transparency."""
    form, mode = kind
    height, width = (32, 64) if ready else (30, 70)
    stored = Image.fromarray(noise(1, height, width)).convert(mode)
    path = saved(tmp_path_factory.getbasetemp() / f"sent.{form}", stored, form, exif=exif(orientation))
    seen = load_image(path)
    if ready:
        assert np.array_equal(sent(path), np.asarray(seen))
    else:
        upright = saved(path.with_name("upright.png"), seen, "PNG")
        assert np.array_equal(sent(path), sent(upright))


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
TURNING = {
    "behind": {"behind": chunk(b"eXIf", exif(6).tobytes()[6:])},
    "xmp": {"before": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)},
    "packed": {"before": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))},
}


@pytest.mark.parametrize("name", TURNING)
def test_a_turn_that_stands_elsewhere_in_the_file_is_found(tmp_path: Path, name: str) -> None:
    stored = noise(2, 32, 64)[..., :3]
    path = tmp_path / "a.png"
    path.write_bytes(png(stored, **TURNING[name], bits=8))
    assert np.array_equal(shown(path), np.rot90(stored, -1))
    assert np.array_equal(sent(path), np.rot90(stored, -1))


# --- checks and their caches


def test_the_facts_of_a_file_are_those_of_the_upright_image(tmp_path: Path) -> None:
    image = Image.fromarray(noise(4, 6, 8, 3)).resize((64, 48))
    files = [str(saved(tmp_path / "upright.png", image, "PNG"))]
    stored = image.transpose(Image.Transpose.ROTATE_90)
    files.append(str(saved(tmp_path / "turned.png", stored, "PNG", exif=exif(6))))
    upright, turned = FactStore(tmp_path / "cache").look(files).facts.values()
    assert upright == turned
    assert (turned.height, turned.width) == (48, 64)


def test_facts_of_an_older_way_of_loading_are_not_taken_for_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(saved(tmp_path / "a.jpg", Image.fromarray(noise(5, 40, 70, 3)), "JPEG", exif=exif(6)))
    with monkeypatch.context() as older:
        older.setattr(image_facts, "LOADING", 1)
        older.setattr(image_facts, "load_image", lambda path: Image.open(path).convert("RGB"))
        assert FactStore(tmp_path).look([file]).facts[file].height == 40
    looked = FactStore(tmp_path).look([file])
    assert (looked.decoded, looked.facts[file].height, looked.facts[file].width) == (1, 70, 40)


def test_a_training_file_is_measured_anew(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leap.data.chat_encoding import ChatFormat
    from leap.data.image import ImageEncoder
    from leap.models.loading import load_processor

    saved(tmp_path / "a.jpg", Image.fromarray(noise(5, 32, 96, 3)), "JPEG", exif=exif(6))
    (tmp_path / "rows.jsonl").write_text(row("a.jpg"))
    processor = load_processor(model)
    encoder = ImageEncoder(processor, ImageSize(1, 64))

    def decode() -> Any:
        place = tmp_path / "rows.jsonl"
        return checked_dataset.check_training_file(
            place, [tmp_path], ChatFormat(processor), encoder, 512, tmp_path / "c"
        )

    with monkeypatch.context() as older:
        older.setattr(image_facts, "LOADING", 1)
        older.setattr(image_facts, "load_image", lambda path: Image.open(path).convert("RGB").resize((32, 32)))
        assert decode().patches.tolist() == [4]
    assert decode().patches.tolist() == [12]


def row(image: str) -> str:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What now?"}]
    return json.dumps({"messages": [{"role": "user", "content": content}], "target": {"steps": "1) Go."}}) + "\n"


def test_scripts_name_the_file_that_they_refuse(workspace: Path, tmp_path: Path) -> None:
    depth = tmp_path / "depth.png"
    UNTOLD["depth.png"](depth)
    (tmp_path / "rows.jsonl").write_text(row(str(depth)))
    plan = "--checkpoint models/tiny --device cpu --max_new_tokens 2 --instruction Look. --image"
    tries = {
        "scripts/evaluation/plan_one.py": [*plan.split(), str(depth)],
        "scripts/training/run-finetuning.py": [
            *("--recipe", TINY_RECIPE, "--train_file", str(tmp_path / "rows.jsonl")),
            *"--output_dir output/depth --dry_run".split(),
        ],
    }
    for script, flags in tries.items():
        done = run_script(script, *flags, root=workspace)
        assert done.returncode == 1
        assert f"{depth}: " in done.stderr.splitlines()[-1]
        assert "8 bits a channel" in done.stderr.splitlines()[-1]


# --- broken files


def test_exif_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.webp", Image.fromarray(noise(1)), "WEBP", exif=exif(6))
    path.write_bytes(path.read_bytes().replace(b"MM\0*", b"MM\0X"))
    with pytest.raises(LeapError, match="its EXIF data cannot be read"):
        load_image(path)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(tmp_path: Path, orientation: int) -> None:
    pixels = noise(1)[..., :3]
    path = saved(tmp_path / "a.png", Image.fromarray(pixels), "PNG", exif=exif(orientation))
    assert np.array_equal(shown(path), pixels)


def test_a_folder_or_nothing_is_no_image(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.png"):
        with pytest.raises(LeapError, match="the image is missing"):
            load_image(path)


FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "ICO", "JPEG2000", "DDS", "TGA")


# PIL's, on what it finds in a file
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=300)
@given(st.sampled_from(FORMATS), st.integers(0, 500), st.binary(min_size=1, max_size=6), st.integers(0, 900))
def test_a_damaged_file_is_an_image_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, place: int, junk: bytes, end: int
) -> None:
    whole = io.BytesIO()
    Image.fromarray(noise(1, channels=3)).save(whole, kind)
    content = bytearray(whole.getvalue())
    content[place : place + len(junk)] = junk
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(content[: end or None]))
    try:
        image = load_image(path)
    except LeapError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
    else:
        assert image.mode == "RGB"
