"""Images as samples name them: paths, or the image's own bytes, which become a file once."""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from leap.records.files import write_atomic
from leap.terminal import shorten


@dataclass(frozen=True)
class ImageFolder:
    """Images that came as bytes, each under a name that its content gives it, so that one is kept once."""

    path: Path

    def keep(self, content: bytes) -> str:
        """The file's name in the folder."""
        name = hashlib.sha256(content).hexdigest()[:32]
        file = self.path / name
        # Of the right size it is whole: files here are replaced whole.
        if not (file.is_file() and file.stat().st_size == len(content)):
            write_atomic(file, content)
        return name


def image_path(image: Any, images: ImageFolder | None) -> str:
    """A path to the image: as it is given, or in the folder of images that came as bytes.

    Taken are a path, file: and data: URIs, bytes, and what `datasets` has of an image: {"bytes": …, "path": …}. Raises
    ValueError for anything else.
    """
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        return _keep(image, images)
    if not isinstance(image, str) or not image:
        raise ValueError(f"image: a path, a data: URI or bytes are expected, found {type(image).__name__}")
    scheme = image[:8].partition(":")[0].lower()
    if scheme == "data":
        return _keep(_decoded(image), images)
    if scheme == "file":
        return unquote(urlsplit(image).path)
    if scheme in ("http", "https"):
        raise ValueError(f"image {shorten(image)}: nothing is downloaded in training; fetch it, and give its path")
    return image


def _decoded(uri: str) -> bytes:
    head, _, content = uri.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("no base64")
        return base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"image {shorten(head)}: the data: URI cannot be decoded ({error})") from error


def _keep(content: bytes, images: ImageFolder | None) -> str:
    assert images is not None, "a reader of images in bytes has a folder for them"
    return images.keep(content)
