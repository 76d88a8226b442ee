"""Pictures for a server: scaled here, as the model's own processor would, and packed without loss.

A server scales a picture itself only where it is outside its own bounds, which therefore must contain ours.
Libraries are loaded with this module: threads use it, and several of them must not load one at once.
"""

import base64
import io
from pathlib import Path

from PIL import Image
from torchvision.transforms.v2 import functional
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from leap.data.pictures import BlankPicture, PictureSize, open_picture, refuse_stripes

TOKEN_SIDE = 32  # pixels: Qwen3-VL merges 2x2 patches of 16 into one token


def data_uri(source: Path | BlankPicture, size: PictureSize) -> str:
    """The picture at the evaluation's size as data:image/png. Raises LeapError where it is broken or too narrow."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(source, size)).decode()


def png_bytes(source: Path | BlankPicture, size: PictureSize) -> bytes:
    """A PNG in RGB of the right size; a file that is one already is passed on byte by byte."""
    picture = open_picture(source)
    height, width = _target(picture, size)
    right = (picture.width, picture.height) == (width, height)
    if right and isinstance(source, Path) and _plain_png(source):
        return source.read_bytes()
    content = io.BytesIO()
    # The lowest level: PNG is lossless at any, and packing must keep up with the server.
    (picture if right else _resized(picture, height, width)).save(content, "PNG", compress_level=1)
    return content.getvalue()


def _target(picture: Image.Image, size: PictureSize) -> tuple[int, int]:
    """(height, width) that Qwen's picture processor would scale to."""
    refuse_stripes(picture.height, picture.width)
    unit = TOKEN_SIDE**2
    return smart_resize(picture.height, picture.width, TOKEN_SIDE, size.min_tokens * unit, size.max_tokens * unit)


def _resized(picture: Image.Image, height: int, width: int) -> Image.Image:
    pixels = functional.pil_to_tensor(picture).contiguous()  # as the processor has them: kernels may round apart
    bicubic = functional.InterpolationMode.BICUBIC
    return functional.to_pil_image(functional.resize(pixels, [height, width], interpolation=bicubic, antialias=True))


def _plain_png(path: Path) -> bool:
    """Whether every reader sees the same pixels: no palette, no transparency, no turning by EXIF."""
    with Image.open(path) as picture:
        return picture.format == "PNG" and picture.mode == "RGB" and not picture.info.keys() & {"exif", "transparency"}
