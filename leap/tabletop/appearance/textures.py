"""Procedural textures, drawn in memory (RGB images); the same arguments always give the same image."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

INK = "#1b1b1b"


def _rgb(colour: str) -> np.ndarray:
    return np.array(ImageColor.getrgb(colour)[:3], float)


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _noise(height: int, width: int, rows: int, columns: int, seed: int) -> np.ndarray:
    """Smooth noise (height, width) in about -1..1 with `rows` x `columns` independent values."""
    values = np.random.default_rng(seed).uniform(-1, 1, (rows, columns)).astype(np.float32)
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))


def _mix(a: str, b: str, share: np.ndarray) -> np.ndarray:
    """Colour `b` where share is 1, `a` where it is 0; (h, w) to (h, w, 3)."""
    share = np.clip(share, 0, 1)[..., None]
    return _rgb(a) * (1 - share) + _rgb(b) * share


def text(draw: ImageDraw.ImageDraw, middle: tuple[float, float], words: str, size: float, colour: str = INK) -> None:
    """Bold text centred on a point, with the font that comes with Pillow."""
    font = ImageFont.load_default(size)
    draw.text(middle, words, colour, font, anchor="mm", stroke_width=size / 24, stroke_fill=colour)


@cache
def wood(light: str, dark: str, seed: int = 0, planks: int = 1, size: int = 256) -> Image.Image:
    """Wood grain that runs along the image's width; several planks have seams and tones of their own."""
    out = np.zeros((size, size, 3))
    rows = size // planks
    tones = np.random.default_rng(seed).uniform(-7, 7, planks)
    for i in range(planks):
        bend = _noise(rows, size, 4, 3, seed + 10 * i + 1) * 0.9 + np.linspace(0, 6.5, rows)[:, None]
        fibre = _noise(rows, size, rows // 2, 8, seed + 10 * i + 2)
        share = 0.45 + 0.24 * np.sin(bend * 4.2) + 0.28 * fibre
        plank = _mix(light, dark, share) + tones[i]
        if planks > 1:
            plank[:1] *= 0.72
        out[i * rows : (i + 1) * rows] = plank
    return _image(out[: rows * planks])


@cache
def speckle(colour: str, other: str, seed: int = 0, grain: int = 96, size: int = 128) -> Image.Image:
    """Two mixed tones: stone, felt, foam, paper, slate."""
    fine, coarse = _noise(size, size, grain, grain, seed), _noise(size, size, 6, 6, seed + 1)
    return _image(_mix(colour, other, 0.4 + 0.35 * fine + 0.3 * coarse))


@cache
def pores(colour: str, hole: str, seed: int = 0, count: int = 150, size: int = 128) -> Image.Image:
    """A sponge-like surface with dark pores."""
    image = speckle(colour, hole, seed, size=size).copy()
    image = Image.blend(image, Image.new("RGB", image.size, colour), 0.7)
    draw, rng = ImageDraw.Draw(image), np.random.default_rng(seed)
    for x, y, radius in rng.uniform((0, 0, 1), (size, size, 3.6), (count, 3)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), hole)
    return image


@cache
def sheen(dark: str, light: str, brushed: float = 0.0, size: int = 128) -> Image.Image:
    """Diagonal bands of light, as polished metal or ice shows them; `brushed` adds fine horizontal lines."""
    down, along = np.mgrid[0:size, 0:size] / size
    share = 0.5 + 0.5 * np.sin((along + 0.6 * down) * 7.0 + 0.8)
    lines = _noise(size, size, size, 3, 5) * brushed
    return _image(_mix(dark, light, share**1.6 + lines))


@cache
def bands(colours: tuple[str, ...], size: int = 64) -> Image.Image:
    """Horizontal bands of equal height, the first one on top."""
    image = Image.new("RGB", (8, size))
    draw = ImageDraw.Draw(image)
    for i, colour in enumerate(colours):
        draw.rectangle((0, i * size / len(colours), 8, (i + 1) * size / len(colours)), colour)
    return image


@cache
def ramp(stops: tuple[str, ...], size: int = 64) -> Image.Image:
    """A vertical run of colours, the first one on top."""
    column = Image.new("RGB", (1, len(stops)))
    column.putdata([ImageColor.getrgb(stop) for stop in stops])
    return column.resize((8, size), Image.Resampling.BICUBIC)


@cache
def melon() -> Image.Image:
    """Dark, jagged stripes from pole to pole on light green (u round, v along)."""
    share = np.linspace(0, 2 * math.pi, 256)[None] * 9 + 1.1 * _noise(128, 256, 24, 32, 3)
    pale = 0.2 * _noise(128, 256, 40, 80, 4)
    return _image(_mix("#7fb04a", "#1f5a24", 0.5 + 1.3 * np.sin(share) + pale))


@cache
def apple_skin() -> Image.Image:
    """Red with fine streaks, yellow-green in the dimple (v = 1)."""
    streaks = 0.16 * _noise(128, 256, 5, 90, 7) + 0.12 * _noise(128, 256, 4, 8, 8)
    dimple = np.linspace(1.25, -1.6, 128)[:, None]
    return _image(_mix("#c3182a", "#d9b548", dimple * 0.8 + streaks))


@cache
def football() -> Image.Image:
    """A football unrolled by longitude and latitude: black pentagons, grey seams (128, 256)."""
    latitude, longitude = np.mgrid[math.pi / 2 : -math.pi / 2 : 128j, 0 : 2 * math.pi : 256j]
    flat = np.cos(latitude)
    view = np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], -1)
    golden = (1 + 5**0.5) / 2
    corners = np.array([(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)], float)
    pentagons = np.vstack([np.roll(corners, k, axis=1) for k in range(3)])
    pentagons /= np.linalg.norm(pentagons, axis=1, keepdims=True)
    cube = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], float)
    others = np.array([(0, a / golden, b * golden) for a in (-1, 1) for b in (-1, 1)], float)
    hexagons = np.vstack([cube, *(np.roll(others[:, [1, 0, 2]], k, axis=1) for k in range(3))])
    hexagons /= np.linalg.norm(hexagons, axis=1, keepdims=True)
    near_pentagon = (view @ pentagons.T).max(-1) * 1.02
    to_hexagons = np.sort(view @ hexagons.T, axis=-1)
    seam = (to_hexagons[..., -1] - to_hexagons[..., -2] < 0.025)[..., None]
    out = np.where(seam, _rgb("#8d9298"), _rgb("#f7f7f4"))
    return _image(np.where((near_pentagon > to_hexagons[..., -1] + 0.045)[..., None], _rgb("#17181c"), out))


@cache
def weave(light: str, dark: str, columns: int = 32, rows: int = 10) -> Image.Image:
    """Wickerwork: strands that go over and under."""
    down, along = np.mgrid[0 : rows * 12, 0 : columns * 12]
    over = ((down // 12 + along // 12) % 2).astype(bool)
    bulge = np.where(over, np.sin(np.pi * (along % 12) / 12), np.sin(np.pi * (down % 12) / 12))
    edge = np.where(over, np.sin(np.pi * (down % 12) / 12), np.sin(np.pi * (along % 12) / 12))
    return _image(_mix(dark, light, 0.25 + 0.45 * bulge * np.sqrt(edge) + 0.25 * over))


@cache
def cardboard() -> Image.Image:
    """Brown board with faint flutes."""
    flutes = 0.12 * np.sin(np.arange(128) * 1.5)[None]
    return _image(_mix("#d6ab72", "#b98a52", 0.4 + flutes + 0.22 * _noise(128, 128, 30, 8, 2)))


def printed(
    size: tuple[int, int],
    ground: str,
    words: str,
    letters: str,
    repeats: int = 3,
    trim: str | None = None,
    height: float = 0.42,
    decoration: Callable[[ImageDraw.ImageDraw, float, float], None] | None = None,
) -> Image.Image:
    """A label that goes round a bottle or can: words (of a share `height`) printed `repeats` times round it.

    `trim` colours a border above and below; `image` draws something more about a middle given in pixels.
    """
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    width, tall = size
    if trim:
        draw.rectangle((0, 0, width, tall * 0.1), trim)
        draw.rectangle((0, tall * 0.9, width, tall), trim)
    for i in range(repeats):
        x = width * (i + 0.5) / repeats
        if decoration:
            decoration(draw, x, tall / 2)
        text(draw, (x, tall * (0.5 if not decoration else 0.72)), words, tall * height, letters)
    return image


@cache
def cola_can() -> Image.Image:
    """Red with a white wave and the name, three times round."""
    image = Image.new("RGB", (384, 160), "#c4121f")
    draw = ImageDraw.Draw(image)
    wave = [(x, 122 + 14 * math.sin(x / 384 * 6 * math.pi)) for x in range(0, 385, 4)]
    draw.line(wave, "#ffffff", 13)
    draw.line([(x, y + 13) for x, y in wave], "#d9d9de", 4)
    for x in (64, 192, 320):
        text(draw, (x, 66), "COLA", 46, "#ffffff")
    return image


@cache
def carton_side(colour: str, words: str, letters: str, fruit: bool) -> Image.Image:
    """One side of a drink carton, upright (128 x 192)."""
    image = Image.new("RGB", (128, 192), "#f8f7f2")
    draw = ImageDraw.Draw(image)
    if fruit:
        draw.rectangle((0, 0, 128, 70), colour)
        draw.ellipse((24, 84, 104, 164), "#f28a12")
        draw.ellipse((33, 93, 95, 155), "#fbb53c")
        for k in range(8):
            x, y = math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)
            draw.line((64, 124, 64 + 31 * x, 124 + 31 * y), "#fff1d6", 3)
        draw.rectangle((0, 176, 128, 192), colour)
    else:
        draw.rectangle((0, 0, 128, 18), colour)
        hills = [(x, 132 + 13 * math.sin(x / 20)) for x in range(0, 130, 2)]
        draw.polygon([*hills, (128, 192), (0, 192)], colour)
    text(draw, (64, 38 if fruit else 72), words, 37 if fruit else 46, letters)
    return image


@cache
def book_cover(colour: str, trim: str, words: str) -> Image.Image:
    """A cloth cover with a gilt frame, title and an ornament (144 x 192)."""
    image = speckle(colour, _shade(colour, 0.86), 3, size=192).resize((144, 192))
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 133, 181), outline=trim, width=4)
    text(draw, (72, 54), words, 27, trim)
    draw.polygon([(72, 88), (104, 122), (72, 156), (40, 122)], outline=trim, width=4)
    draw.ellipse((60, 110, 84, 134), trim)
    return image


@cache
def book_spine(colour: str, trim: str) -> Image.Image:
    """The back of a book: bands across it (32 x 192)."""
    image = Image.new("RGB", (32, 192), colour)
    draw = ImageDraw.Draw(image)
    for y in (16, 28, 60, 132, 164, 176):
        draw.rectangle((0, y, 32, y + 3), trim)
    return image


@cache
def pages() -> Image.Image:
    """The edges of a book's leaves: fine lines along the image's width."""
    return _image(_mix("#f6f1e2", "#cfc5ac", 0.35 + 0.5 * _noise(64, 64, 64, 2, 1)))


def _shade(colour: str, factor: float) -> str:
    return "#" + "".join(f"{int(min(255, value * factor)):02x}" for value in _rgb(colour))


def suit(draw: ImageDraw.ImageDraw, name: str, x: float, y: float, size: float) -> None:
    """A card suit about (x, y), about `size` pixels high."""
    colour = "#c8102e" if name in ("hearts", "diamonds") else INK
    half = size / 2
    if name == "diamonds":
        draw.polygon([(x, y - half), (x + 0.72 * half, y), (x, y + half), (x - 0.72 * half, y)], colour)
        return
    lobe = 0.52 * half
    if name == "clubs":
        centres = [(x, y - 0.45 * half), (x - 0.5 * half, y + 0.22 * half), (x + 0.5 * half, y + 0.22 * half)]
    else:
        side = -1 if name == "hearts" else 1
        centres = [(x + k * 0.47 * half, y + side * 0.32 * half) for k in (-1, 1)]
        tip = y + half if name == "hearts" else y - half
        wing = y + side * 0.10 * half
        draw.polygon([(x - 0.96 * half, wing), (x, tip), (x + 0.96 * half, wing), (x, y + side * 0.5 * half)], colour)
    for cx, cy in centres:
        draw.ellipse((cx - lobe, cy - lobe, cx + lobe, cy + lobe), colour)
    if name in ("clubs", "spades"):
        draw.polygon([(x, y), (x + 0.34 * half, y + half), (x - 0.34 * half, y + half)], colour)


@cache
def card_face(rank: str, name: str) -> Image.Image:
    """A playing card's face, upright (192 x 272): large rank above a large suit, so that it reads when small."""
    image = Image.new("RGB", (192, 272), "#fdfdfb")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((3, 3, 188, 268), 12, outline="#4c4c55", width=4)
    colour = "#c8102e" if name in ("hearts", "diamonds") else INK
    text(draw, (96, 84), rank, 122 if len(rank) == 1 else 104, colour)
    suit(draw, name, 96, 194, 108)
    for x, y in ((30, 34), (162, 238)):
        suit(draw, name, x, y, 30)
    return image


@cache
def card_mat() -> Image.Image:
    """A green card mat: felt with a gilt line and the four suits (256 x 192)."""
    image = speckle("#1d6b41", "#175636", 9, size=256).resize((256, 192))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((12, 12, 243, 179), 14, outline="#d8b75a", width=4)
    for i, name in enumerate(("spades", "hearts", "clubs", "diamonds")):
        suit(draw, name, 62 + 44 * i, 96, 34)
    return image
