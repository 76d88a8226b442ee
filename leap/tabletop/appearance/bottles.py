"""How the drinks and the condiments look."""

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from leap.tabletop.appearance import textures
from leap.tabletop.appearance.look import Look, Paint
from leap.tabletop.appearance.meshes import extrude, revolve, smooth

METAL = Paint(gloss=0.9, image=textures.sheen("#8f959c", "#f2f4f6"))


def _label(look: Look, image: Image.Image, radius: float, low: float, high: float) -> None:
    """A printed band round an upright bottle, between two heights."""
    look.mesh(Paint(gloss=0.15, image=image), revolve([(radius + 0.0006, low), (radius + 0.0006, high)]))


def _bottle(look: Look, glass: Paint, profile: Sequence[Sequence[float]], cap: Paint, cap_height: float) -> None:
    """A turned bottle that ends in its neck, and a cap on it."""
    look.mesh(glass, revolve(smooth(profile, 3)))
    radius, top = profile[-1]
    look.drum(cap, radius + 0.0025, cap_height / 2, (0, 0, top + cap_height / 2 - 0.004))


def _cola(look: Look) -> None:
    side = [(0.0325, 0.008), (0.0335, 0.012), (0.0335, 0.106), (0.0325, 0.110)]
    look.mesh(Paint(gloss=0.6, image=textures.cola_can()), revolve(side))
    look.mesh(METAL, revolve([(0, 0.003), (0.025, 0), (0.0325, 0.008)]))
    look.mesh(METAL, revolve([(0.0325, 0.110), (0.0275, 0.118), (0.0265, 0.118), (0.0255, 0.1145), (0, 0.1145)]))
    look.egg(Paint("#c9ced3", 0.8), (0.010, 0.006, 0.0015), (0.006, 0, 0.1165))
    look.egg(Paint("#3a3d41", 0.2), (0.006, 0.005, 0.0006), (-0.010, 0, 0.115))


def _carton(look: Look, colour: str, words: str, letters: str, fruit: bool) -> None:
    """A gable-top carton, printed on all four sides, with a screw cap."""
    half, tall = 0.031, 0.110
    white = Paint("#f8f7f2", 0.25)
    look.box(white, (half, half, tall / 2), (0, 0, tall / 2))
    face = Paint(gloss=0.25, image=textures.carton_side(colour, words, letters, fruit))
    for quarter in range(4):
        x, y = math.sin(quarter * math.pi / 2), -math.cos(quarter * math.pi / 2)
        look.panel(face, half, tall / 2, (x * half, y * half, tall / 2), quarter * 90)
    ridge = tall + 0.032
    look.mesh(Paint(colour, 0.25), extrude([(-half, tall), (half, tall), (0.002, ridge), (-0.002, ridge)], 2 * half))
    look.box(white, (0.0022, half, 0.008), (0, 0, ridge + 0.006))
    look.drum(Paint(letters if fruit else colour, 0.5), 0.011, 0.007, (0.018, 0, tall + 0.020), (0, 45, 0))


def _milk(look: Look) -> None:
    _carton(look, "#2f6fc4", "MILK", "#1d4f9e", fruit=False)


def _orange_juice(look: Look) -> None:
    _carton(look, "#ee7d10", "JUICE", "#ffffff", fruit=True)


def _water(look: Look) -> None:
    profile = [(0, 0.003), (0.024, 0), (0.031, 0.008), (0.032, 0.040), (0.0295, 0.062), (0.032, 0.084),
               (0.031, 0.120), (0.020, 0.150), (0.012, 0.165), (0.0115, 0.176)]  # fmt: skip
    look.mesh(Paint("#7cc4ee", 0.2), revolve(smooth([(0.84 * r, 0.004 + 0.86 * z) for r, z in profile[:8]], 2)))
    _bottle(look, Paint("#bfe4f788", 1.0), profile, Paint("#1f66c9", 0.4), 0.016)
    image = textures.printed((320, 96), "#ffffff", "WATER", "#1f66c9", trim="#3c9be0", height=0.36)
    _label(look, image, 0.0325, 0.086, 0.116)


def _wine(look: Look) -> None:
    profile = [(0, 0.006), (0.030, 0), (0.0365, 0.008), (0.0370, 0.130), (0.032, 0.160), (0.016, 0.185),
               (0.0125, 0.205), (0.0125, 0.245)]  # fmt: skip
    _bottle(look, Paint("#16361f", 1.0), profile, Paint("#7a1022", 0.5), 0.012)
    look.mesh(Paint("#7a1022", 0.5), revolve([(0.0136, 0.210), (0.0136, 0.246)]))

    def grapes(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
        for row in range(3):
            for k in range(3 - row):
                cx, cy = x + (k - (2 - row) / 2) * 15, y - 36 + row * 13
                draw.ellipse((cx - 8, cy - 8, cx + 8, cy + 8), "#6d1f45")

    image = textures.printed((320, 160), "#f3ead2", "WINE", "#6d1230", trim="#b48b3c", height=0.24, decoration=grapes)
    _label(look, image, 0.0372, 0.045, 0.115)


def _beer(look: Look) -> None:
    profile = [(0, 0.004), (0.027, 0), (0.0325, 0.007), (0.0330, 0.100), (0.028, 0.122), (0.0145, 0.150),
               (0.0125, 0.185)]  # fmt: skip
    _bottle(look, Paint("#7a3f10", 1.0), profile, Paint("#d8b23f", 0.8), 0.010)
    image = textures.printed((320, 140), "#efc743", "BEER", "#5a1d0c", trim="#8f1d14", height=0.29)
    _label(look, image, 0.0332, 0.028, 0.086)


def _salt(look: Look) -> None:
    look.mesh(Paint("#fbfbf8", 0.1), revolve([(0, 0.003), (0.0215, 0.003), (0.018, 0.050), (0, 0.053)], 20))
    glass = [(0, 0), (0.026, 0), (0.0265, 0.006), (0.0205, 0.066), (0.0195, 0.070)]
    look.mesh(Paint("#dfeaf066", 1.0), revolve(glass, 8))
    dome = [(0.0215, 0.066), (0.0215, 0.078), (0.0185, 0.087), (0.011, 0.092), (0, 0.0935)]
    look.mesh(METAL, revolve(dome))
    for k in range(5):
        x, y = 0.009 * math.cos(k * 1.2566), 0.009 * math.sin(k * 1.2566)
        look.ball(Paint("#222222", 0), 0.0016, (x, y, 0.0922))
    image = textures.printed((256, 64), "#ffffff", "SALT", "#23527c", height=0.50)
    _label(look, image, 0.0252, 0.020, 0.042)


def _pepper(look: Look) -> None:
    profile = [(0, 0), (0.027, 0), (0.027, 0.012), (0.018, 0.034), (0.0155, 0.060), (0.021, 0.084), (0.021, 0.092)]
    wood = Paint(gloss=0.6, image=textures.wood("#4a2a18", "#22110a", 11))
    look.mesh(wood, revolve(smooth(profile)))
    look.drum(Paint("#caa75a", 0.8), 0.0195, 0.002, (0, 0, 0.094))
    look.mesh(wood, revolve(smooth([(0.020, 0.096), (0.0235, 0.108), (0.017, 0.122), (0, 0.127)])))
    look.ball(Paint("#d5d8dc", 0.9), 0.007, (0, 0, 0.131))


def _squeeze(look: Look, colour: str, words: str, letters: str, cap: str, nozzle: str) -> None:
    """A plastic squeeze bottle with a pointed nozzle."""
    profile = [(0, 0.002), (0.027, 0), (0.0325, 0.010), (0.0325, 0.100), (0.029, 0.122), (0.020, 0.136)]
    look.mesh(Paint(colour, 0.55), revolve(smooth(profile, 3)))
    look.mesh(Paint(cap, 0.4), revolve([(0.0215, 0.130), (0.0215, 0.142), (0.012, 0.148), (0.005, 0.170), (0, 0.171)]))
    look.ball(Paint(nozzle, 0.4), 0.0042, (0, 0, 0.171))
    image = textures.printed((384, 128), letters, words, colour, height=0.21)
    _label(look, image, 0.0328, 0.040, 0.092)


def _ketchup(look: Look) -> None:
    _squeeze(look, "#c8141c", "KETCHUP", "#fff6e8", "#fbfbf7", "#c8141c")


def _mustard(look: Look) -> None:
    _squeeze(look, "#eebd10", "MUSTARD", "#3f2a10", "#d79a06", "#f5e2a0")


def _soy_sauce(look: Look) -> None:
    profile = [(0, 0.002), (0.028, 0), (0.033, 0.008), (0.031, 0.050), (0.022, 0.090), (0.013, 0.108), (0.012, 0.120)]
    _bottle(look, Paint("#1d0d08", 1.0), profile, Paint("#cf1a20", 0.5), 0.020)
    image = textures.printed((320, 120), "#fbf3dc", "SOY", "#c4161c", trim="#c4161c", height=0.40)
    _label(look, image, 0.0328, 0.014, 0.052)


def _honey(look: Look) -> None:
    profile = [(0, 0.002), (0.030, 0), (0.0365, 0.008), (0.0385, 0.035), (0.0365, 0.064), (0.031, 0.074)]
    look.mesh(Paint("#e2920f", 0.9, glow=0.15), revolve(smooth(profile)))
    look.mesh(Paint("#e8c14a", 0.7), revolve([(0.0335, 0.072), (0.0335, 0.088), (0.031, 0.091), (0, 0.091)]))

    def bee(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
        for side in (-1, 1):
            draw.ellipse((x + side * 9 - 9, y - 44, x + side * 9 + 9, y - 20), "#bfe0ee", "#5a6a70")
        draw.ellipse((x - 24, y - 28, x + 24, y + 2), "#f5c518", "#2a1a08", 3)
        for shift in (-9, 3, 14):
            draw.rectangle((x + shift, y - 27, x + shift + 5, y + 1), "#2a1a08")

    image = textures.printed((384, 128), "#fff3cf", "HONEY", "#8a4a06", height=0.27, decoration=bee)
    _label(look, image, 0.0384, 0.018, 0.056)


LOOKS: dict[str, Callable[[Look], None]] = {
    "cola": _cola,
    "milk": _milk,
    "water": _water,
    "wine": _wine,
    "beer": _beer,
    "orange_juice": _orange_juice,
    "salt": _salt,
    "pepper": _pepper,
    "ketchup": _ketchup,
    "mustard": _mustard,
    "soy_sauce": _soy_sauce,
    "honey": _honey,
}
