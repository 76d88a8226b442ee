"""Images from outside: of known formats and a bearable size, sent with the request. No address is ever fetched."""

import base64
import io
import re

import anyio
from anyio import to_thread

from leap.data.image import SentImage, as_rgb, open_image, refuse_stripes
from leap.errors import LeapError
from leap.hardware import usable_cores
from leap.serving.refusals import Refused

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # PIL knows dozens more, some of which start other programs
MOST_PIXELS = 2**25  # an 8K frame; some 0.3 GB while it is decoded
_DATA_URI = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.IGNORECASE)
_decoding = anyio.CapacityLimiter(usable_cores())  # pixels take fifty times the memory of their files


async def check_image(content: bytes, field: str) -> SentImage:
    """An image that can be decoded: a broken one is the client's error, and no engine's. Raises Refused."""
    await to_thread.run_sync(_decode, content, field, limiter=_decoding)
    return SentImage(content)


def _decode(content: bytes, field: str) -> None:
    try:
        with open_image(io.BytesIO(content), FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise Refused(400, f"{field}: {width}x{height} pixels; send at most {MOST_PIXELS:,}", field)
            refuse_stripes(height, width)
            as_rgb(image)
    except LeapError as error:
        raise Refused(400, f"{field}: {error}; send it as {' or '.join(FORMATS)}", field) from error


def read_data_uri(uri: str, field: str) -> bytes:
    """The bytes in a data: URI. Raises Refused for any other address: a server that fetches what strangers name can be
    sent into its own network."""
    head = _DATA_URI.match(uri)
    if head is None:
        raise Refused(400, f"{field}: nothing is fetched; send the image itself, as data:image/png;base64,...", field)
    try:
        return base64.b64decode(uri[head.end() :], validate=True)
    except ValueError as error:  # binascii.Error is one
        raise Refused(400, f"{field}: no base64 ({error}); send the image again", field) from error
