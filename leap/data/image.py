"""Images: found on disk, decoded, and turned into the patches that a model reads.

The size is always the caller's, never what a checkpoint's processor happens to hold.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from leap.errors import LeapError
from leap.records.remote import address, as_path, is_there, open_file

IMAGES_ARCHIVE = "images.tar.gz"  # which the published samples come with
_FIRST_FOLDER = "demo-data/images/"
LOADING = 3  # the version of `as_rgb`: to be raised when it makes other pixels of a file, since caches keep their facts

# PIL's ways to say that a file is broken, or too large to be an image
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, EOFError,
           struct.error, zlib.error, Image.DecompressionBombError)  # fmt: skip

# PIL's modes in which black and white are known. The others ("I;16", "I", "F": 16 and 32 bits a grey pixel, and floats)
# hold photographs and depth in millimetres alike; PIL would clip them, nearly all pixels to white or to black.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})


@dataclass(frozen=True)
class ImageSize:
    """Bounds on an image's tokens; a token of Qwen3-VL covers 32x32 pixels. Images in between keep their size."""

    min_tokens: int
    max_tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.min_tokens <= self.max_tokens:
            raise LeapError(f"image tokens {self.min_tokens}..{self.max_tokens}: give 0 < min <= max")

    def __str__(self) -> str:
        return f"{self.min_tokens} to {self.max_tokens} tokens"


def resolve_image(path: str, roots: Sequence[Path]) -> Path:
    """The one file that a sample's image path, or address, means. None or several matches raise LeapError."""
    candidates = image_places(path, roots)
    found = _files(candidates) or _files(_in_renamed_folder(path, roots))
    if len(found) == 1:
        return found[0]
    tried = ", ".join(map(address, found or candidates))
    if not found:
        raise LeapError(f"image {path}: missing (looked for {tried}); {_way_out(roots)}")
    raise LeapError(f"image {path}: two different files match ({tried}); set --image_root to the right folder")


def image_places(path: str, roots: Sequence[Path]) -> list[Path]:
    """Where a sample's image may be."""
    given = as_path(path)
    return [given] if given.is_absolute() else [root / given for root in roots]


def _files(candidates: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(candidate.resolve() for candidate in candidates if is_there(candidate)))


def _in_renamed_folder(path: str, roots: Sequence[Path]) -> list[Path]:
    """Where the images of the first samples may be: these name the folder in which their authors had them."""
    _, found, name = path.partition(_FIRST_FOLDER)
    return [root / folder / name.lstrip("/") for root in roots for folder in ("images", "") if found]


def _way_out(roots: Sequence[Path]) -> str:
    """What to do about a missing image."""
    for folder in (place for root in roots for place in (root, root.parent)):
        if (folder / IMAGES_ARCHIVE).is_file():
            return f"unpack it first: python scripts/utils/unpack_images.py --archive {folder / IMAGES_ARCHIVE}"
    return "restore it or set --image_root"


@dataclass(frozen=True)
class BlankImage:
    """A grey image of another one's size: a model that sees only these answers from the text alone."""

    like: Path


@dataclass(frozen=True)
class SentImage:
    """An image file's content, of one that lies on no disk here: a client has sent it."""

    content: bytes = field(repr=False)


ImageSource = Path | BlankImage | SentImage


def load_image(source: ImageSource) -> Image.Image:
    """A whole image in RGB; LeapError where the file is missing, truncated or no image. See `as_rgb`."""
    if isinstance(source, SentImage):
        with open_image(io.BytesIO(source.content)) as image:
            return as_rgb(image)
    if isinstance(source, BlankImage):
        return Image.new("RGB", load_image(source.like).size, (128, 128, 128))
    try:
        if not is_there(source):  # a pipe would be waited for
            raise LeapError("the image is missing; restore the file")
        with open_file(source) as file, open_image(file) as image:
            return as_rgb(image)
    except OSError as error:
        raise LeapError(f"{source}: the image cannot be read ({error.strerror})") from error
    except LeapError as error:
        raise LeapError(f"{address(source)}: {error}") from error


@contextmanager
def open_image(file: IO[bytes], formats: tuple[str, ...] | None = None) -> Iterator[ImageFile]:
    """An image file of one of PIL's `formats` (any); its pixels are not decoded yet. The one place that opens images.

    Whatever PIL finds broken, then or inside of the block, becomes a LeapError without the file's name. It takes an
    open file, since PIL maps what it opens itself into memory, and then scrambles a TIFF that lies on its side.
    """
    try:
        with Image.open(file, formats=formats) as image:
            yield image
    except _BROKEN as error:
        if isinstance(error, OSError) and error.strerror:  # the disk's or the network's word, not PIL's
            raise LeapError(f"cannot be read ({error.strerror})") from error
        raise LeapError(f"cannot be decoded as an image ({error}); restore or remove it") from error


def as_rgb(image: ImageFile) -> Image.Image:
    """The first frame of an opened image as a viewer shows it: upright by EXIF, on white where it is transparent.

    Raises LeapError for an image whose file does not say.
    """
    packed = " ".join(str(tile.args) for tile in image.tile)  # how the file holds a pixel
    image.load()
    if image.mode not in _MODES:
        raise LeapError(
            f"pixels of 16 bits or more, or floats (mode {image.mode}), which do not say what is black and what is "
            "white; save it with 8 bits a channel"
        )
    key = image.info.get("transparency")
    if (";16" in packed and isinstance(key, tuple)) or (re.search(r"\bL;[24]\b", packed) and isinstance(key, int)):
        # PIL has made 8 bits of each pixel, and not of the colour that means transparent
        raise LeapError("its pixels have not 8 bits, and one colour means transparent; save it with 8 bits a channel")
    _turn_upright(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    # A transparent pixel has a colour too, which nobody was to see.
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _turn_upright(image: ImageFile) -> None:
    """Turn the pixels as EXIF says. EXIF that cannot be read is refused: the image may lie on its side."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except _BROKEN as error:
        raise LeapError(f"its EXIF data cannot be read ({error}); remove them, or save the image anew") from error


def refuse_stripes(height: int, width: int) -> None:
    """Qwen's image processor takes no sides of more than 200 to 1."""
    if max(height, width) > 200 * min(height, width):
        raise LeapError(f"an image of {width}x{height} pixels is too narrow for the model (200 to 1 at the most)")


class ImageEncoder:
    """Turns images into patches at one fixed size, leaving the processor itself untouched.

    For the image processors of Qwen's VLMs and those made after them; see `encodes` for whether it is one.
    """

    def __init__(self, processor: Any, size: ImageSize) -> None:
        self._image_processor = processor.image_processor
        self.patches_per_token: int = self._image_processor.merge_size**2
        unit = (self._image_processor.patch_size * self._image_processor.merge_size) ** 2  # pixels of one token
        # bounds on an image's area in pixels, under the processor's names
        self.size = {"shortest_edge": size.min_tokens * unit, "longest_edge": size.max_tokens * unit}

    @staticmethod
    def encodes(processor: Any) -> bool:
        """Whether a processor cuts images into patches as Qwen's do."""
        image_processor = processor.image_processor
        return hasattr(image_processor, "merge_size") and hasattr(image_processor, "temporal_patch_size")

    def tokens(self, height: int, width: int) -> int:
        """How many tokens an image of that size (pixels) becomes."""
        return self.patches(height, width) // self.patches_per_token

    def patches(self, height: int, width: int) -> int:
        """How many patches an image of that size (pixels) is cut into; `patches_per_token` of them make a token."""
        refuse_stripes(height, width)
        return self._image_processor.get_number_of_image_patches(
            height, width, {"min_pixels": self.size["shortest_edge"], "max_pixels": self.size["longest_edge"]}
        )

    def encode(self, images: Sequence[Image.Image]) -> tuple[Any, Any]:
        """(pixel_values [patches, channels x frames x pixels] float32, image_grid_thw [images, 3] int64)."""
        patches, grid = self.encode_bytes(images)
        return self.scale(patches), grid

    def encode_bytes(self, images: Sequence[Image.Image]) -> tuple[Any, Any]:
        """(patches [patches, channels, pixels] uint8, image_grid_thw): an eighth of the bytes, for `scale` to finish.

        The processor repeats an image as the frames of a still video; one of them is kept.
        """
        for image in images:
            refuse_stripes(image.height, image.width)
        encoded = self._image_processor(
            images=list(images), size=self.size, do_rescale=False, do_normalize=False, return_tensors="pt"
        )
        frames, pixels = self._image_processor.temporal_patch_size, self._image_processor.patch_size**2
        patches = encoded["pixel_values"].unflatten(1, (-1, frames, pixels))
        return patches[:, :, 0].contiguous(), encoded["image_grid_thw"]

    def dummy(self) -> tuple[Any, Any]:
        """(patches, image_grid_thw) of a black image of a single token."""
        import torch

        side, pixels = self._image_processor.merge_size, self._image_processor.patch_size**2
        patches = torch.zeros(side**2, len(self._image_processor.image_mean), pixels, dtype=torch.uint8)
        return patches, torch.tensor([[1, side, side]])

    def scale(self, patches: Any, dtype: Any = None) -> Any:
        """`pixel_values` of the model in `dtype` (float32) from `encode_bytes`, on the device where the patches are."""
        import torch

        mean, std = (values.to(patches.device) for values in self.statistics())
        scaled = ((patches.float() - mean) / std).to(dtype or torch.float32)
        frames = self._image_processor.temporal_patch_size
        return scaled[:, :, None].expand(-1, -1, frames, -1).flatten(1)

    def statistics(self) -> tuple[Any, Any]:
        """(mean, std) of the colour values 0..255, float32 [channels, 1] each."""
        import torch

        found = self._image_processor.image_mean, self._image_processor.image_std
        mean, std = (torch.tensor(values)[:, None] / self._image_processor.rescale_factor for values in found)
        return mean, std

    def tokens_of(self, grid: Any) -> list[int]:
        """Tokens of each image from `image_grid_thw`."""
        return (grid.prod(dim=-1) // self.patches_per_token).tolist()
