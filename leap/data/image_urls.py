"""Images for a server: scaled here, as the model's own processor would, and packed without loss.

A server scales an image itself only where it is outside its own bounds, which therefore must contain ours.
Libraries are loaded with this module: threads use it, and several of them must not load one at once.
"""

import base64
import io
from pathlib import Path

from PIL import Image
from torchvision.transforms.v2 import functional
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from leap.data.image import ImageSize, ImageSource, SentImage, load_image, open_image, refuse_stripes
from leap.errors import LeapError
from leap.records.remote import is_there, open_file

TOKEN_SIDE = 32  # pixels: Qwen3-VL merges 2x2 patches of 16 into one token
# Chunks of a PNG after which readers differ; EXIF may stand behind the pixels, or in a text.
_NOT_PLAIN = (b"eXIf", b"tRNS", b"acTL", b"iTXt", b"zTXt", b"Raw profile type")


def image_url(source: ImageSource, size: ImageSize, readable: Path | None = None) -> str:
    """The image at the evaluation's size as data:image/png, or as file: where it is one that the server can read.

    The server reads files under `readable`. Raises LeapError where the image is broken or too narrow; a file that is
    passed on as it is was not decoded, so that the server may still find it broken.
    """
    content = _content(source)
    if content and _is_ready(content, size):
        if readable is not None and isinstance(source, Path) and source.resolve().is_relative_to(readable.resolve()):
            return source.resolve().as_uri()
    else:
        content = _packed(load_image(source), size)
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _content(source: ImageSource) -> bytes:
    """What the file holds; nothing where it is none or cannot be read, and open_image says so."""
    if isinstance(source, SentImage):
        return source.content
    try:
        if not (isinstance(source, Path) and is_there(source)):
            return b""
        with open_file(source) as file:
            return file.read()
    except OSError:
        return b""


def _is_ready(content: bytes, size: ImageSize) -> bool:
    """Whether a file is a PNG of the right size in which every reader sees the same pixels; they are not decoded.

    That is: eight bits, no palette, no transparency, one frame, no turning by EXIF or XMP.
    """
    if any(chunk in content for chunk in _NOT_PLAIN):
        return False
    try:
        with open_image(io.BytesIO(content), ("PNG",)) as image:
            plain = image.mode == "RGB" and [tile.args for tile in image.tile] == ["RGB"]
            return plain and (image.height, image.width) == _target(image, size)
    except LeapError:
        return False  # open_image says what is wrong


def _packed(image: Image.Image, size: ImageSize) -> bytes:
    height, width = _target(image, size)
    right = (image.width, image.height) == (width, height)
    content = io.BytesIO()
    # The lowest level: PNG is lossless at any, and packing must keep up with the server.
    (image if right else _resized(image, height, width)).save(content, "PNG", compress_level=1)
    return content.getvalue()


def _target(image: Image.Image, size: ImageSize) -> tuple[int, int]:
    """(height, width) that Qwen's image processor would scale to."""
    refuse_stripes(image.height, image.width)
    unit = TOKEN_SIDE**2
    return smart_resize(image.height, image.width, TOKEN_SIDE, size.min_tokens * unit, size.max_tokens * unit)


def _resized(image: Image.Image, height: int, width: int) -> Image.Image:
    pixels = functional.pil_to_tensor(image).contiguous()  # as the processor has them: kernels may round apart
    bicubic = functional.InterpolationMode.BICUBIC
    return functional.to_pil_image(functional.resize(pixels, [height, width], interpolation=bicubic, antialias=True))
