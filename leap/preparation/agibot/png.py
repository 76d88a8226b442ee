"""Frames as PNG files, many times faster than a general encoder: one filter for all rows, and isal's deflate."""

import io
import struct

import numpy as np
from isal import isal_zlib

from leap.data.image import as_rgb, open_image
from leap.errors import LeapError

_MAX_PIXELS = 50_000_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}  # channels -> grey, RGB (PNG specification, table 11.1)
_AVERAGE = 3  # the filter: each byte less the mean of its left and upper neighbours'
_LEVEL = 1  # of isal's 0 to 3; the higher ones make photographs no smaller


def as_png(data: bytes) -> bytes:
    """A frame as a PNG file that shows the same: a PNG is left as it is. Raises LeapError for what does not decode."""
    with open_image(io.BytesIO(data), ("JPEG", "PNG")) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise LeapError(f"{image.width}x{image.height} pixels are too many for a frame")
        grey = image.mode == "L"
        shown = as_rgb(image)
        if image.format == "PNG":
            return data
        return encode_png(np.asarray(shown.getchannel(0) if grey else shown))


def encode_png(pixels: np.ndarray) -> bytes:
    """The file of an image, uint8 [height, width] or [height, width, 3]."""
    height, width, channels = (*pixels.shape, 1)[:3]
    values = np.ascontiguousarray(pixels).reshape(height, -1)
    left, above = np.zeros_like(values), np.zeros_like(values)
    left[:, channels:] = values[:, :-channels]
    above[1:] = values[:-1]
    rows = np.full((height, 1 + values.shape[1]), _AVERAGE, np.uint8)
    rows[:, 1:] = values - ((left & above) + ((left ^ above) >> 1))  # that mean, rounded down, within a byte
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    content = isal_zlib.compress(rows, _LEVEL)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", isal_zlib.crc32(kind + content))
