"""An image of a training file's images: some samples, and the pairs that were taken for copies."""

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from leap.data.image import load_image
from leap.preparation.build.candidates import Candidate
from leap.preparation.build.copies import Copy
from leap.records.files import write_atomic
from leap.records.training import TrainingSample

_COLUMNS, _WIDTH, _HEIGHT, _CAPTION, _GAP, _TITLE = 6, 220, 165, 34, 10, 34  # pixels
_SAMPLES, _PAIRS = 18, 9  # shown at most
_INK, _GREY = "#222222", "#e3e3e3"


class _Cell(NamedTuple):
    image: str
    caption: str
    detail: str


def write_contact_sheet(
    path: Path, samples: Sequence[Candidate], copies: Sequence[Copy], overlaps: Sequence[Copy], seed: int
) -> None:
    """Write a PNG with samples drawn by the seed, and the most doubtful copies beside what they were taken for."""
    chosen = random.Random(seed).sample(range(len(samples)), min(_SAMPLES, len(samples)))
    sections = [
        (f"{len(chosen)} of {len(samples):,} samples", [_sample_cell(samples[place]) for place in sorted(chosen)]),
        (f"Copies within the samples ({len(copies):,}), the least alike first, in pairs", _pair_cells(samples, copies)),
        (f"Rows with an image of the evaluation ({len(overlaps):,}), in pairs", _pair_cells(samples, overlaps)),
    ]
    sections = [(title, cells) for title, cells in sections if cells]
    lines = [-(-len(cells) // _COLUMNS) for _, cells in sections]
    step = _HEIGHT + _CAPTION + _GAP
    size = _COLUMNS * (_WIDTH + _GAP) + _GAP, sum(_TITLE + count * step for count in lines) + _GAP
    sheet = Image.new("RGB", size, "white")
    top = 0
    for (title, cells), count in zip(sections, lines, strict=True):
        ImageDraw.Draw(sheet).text((_GAP, top + 10), title, fill=_INK, font=ImageFont.load_default(17))
        for number, cell in enumerate(cells):
            left = _GAP + number % _COLUMNS * (_WIDTH + _GAP)
            _draw(sheet, cell, left, top + _TITLE + number // _COLUMNS * step)
        top += _TITLE + count * step
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_atomic(path, content.getvalue())


def _sample_cell(sample: Candidate) -> _Cell:
    return _Cell(
        sample.image, sample.name, " ".join(TrainingSample.model_validate_json(sample.line).target.steps.split())
    )


def _pair_cells(samples: Sequence[Candidate], copies: Sequence[Copy]) -> list[_Cell]:
    cells = []
    doubtful = sorted(copies, key=lambda copy: (copy.same, -copy.bits, copy.sample))
    for number, copy in enumerate(doubtful[:_PAIRS], start=1):
        alike, sample = "the very same pixels" if copy.same else f"{copy.bits} bits apart", samples[copy.sample]
        cells += [
            _Cell(sample.image, f"{number}a  {sample.name}", alike),
            _Cell(copy.other, f"{number}b  {'/'.join(Path(copy.other).parts[-4:])}", alike),
        ]
    return cells


def _draw(sheet: Image.Image, cell: _Cell, left: int, top: int) -> None:
    small = ImageOps.contain(load_image(Path(cell.image)), (_WIDTH, _HEIGHT))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.rectangle((left, top, left + _WIDTH - 1, top + _HEIGHT - 1), fill=_GREY)
    sheet.paste(small, (left + (_WIDTH - small.width) // 2, top + (_HEIGHT - small.height) // 2))
    for line, text in enumerate((cell.caption, cell.detail)):
        draw.text((left, top + _HEIGHT + 2 + 15 * line), _fitting(text, draw, font), fill=_INK, font=font)


def _fitting(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if draw.textlength(text, font=font) <= _WIDTH:
        return text
    while text and draw.textlength(f"{text}…", font=font) > _WIDTH:
        text = text[:-1]
    return f"{text}…"
