"""Counts as bars, one panel for each of several columns, in one picture."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from phys4d.engine.errors import UserError, printable
from phys4d.engine.output import check_file, write_file
from phys4d.report.sheet import INK, KINDS, PAPER

_COLUMNS, _WIDTH, _LABEL, _BAR, _LINE, _GAP = 2, 460, 170, 180, 18, 16  # pixels, but for the first
_BLUE, _SCALE = (30, 136, 229), 2


def check_picture(out: Path) -> None:
    """Raises UserError if a picture cannot be written to this path."""
    if out.suffix.lower() not in KINDS:
        raise UserError(f"{out}: expected a name that ends in {', '.join(KINDS)}")
    check_file(out)


def histograms(counts: Mapping[str, Sequence[tuple[str, int]]], title: str, out: Path) -> None:
    """Writes a PNG or JPEG with one panel of horizontal bars for each of `counts`: title -> (label, count).

    Bars of a panel are as long as their share of its largest count. Raises UserError if `out` has another ending or
    cannot be written.
    """
    check_picture(out)
    panels = list(counts.items())
    rows = [panels[first : first + _COLUMNS] for first in range(0, len(panels), _COLUMNS)]
    heights = [_GAP + _LINE * (1 + max(len(values) for _, values in row)) for row in rows]
    size = (_COLUMNS * _WIDTH * _SCALE, (2 * _LINE + sum(heights) + _GAP) * _SCALE)
    picture = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11 * _SCALE)
    bold = ImageFont.load_default(13 * _SCALE)
    draw.text((_GAP * _SCALE, _GAP // 2 * _SCALE), printable(title), fill=INK, font=bold)
    top = 2 * _LINE
    for row, height in zip(rows, heights, strict=True):
        for column, (name, values) in enumerate(row):
            _panel(draw, font, bold, (column * _WIDTH + _GAP, top), name, values)
        top += height
    data = BytesIO()
    picture.save(data, KINDS[out.suffix.lower()], optimize=True, quality=88)
    write_file(out, data.getvalue())


def _panel(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    bold: ImageFont.FreeTypeFont | ImageFont.ImageFont, place: tuple[int, int], name: str,
    values: Sequence[tuple[str, int]],
) -> None:  # fmt: skip
    left, top = place
    draw.text((left * _SCALE, top * _SCALE), printable(name), fill=INK, font=bold)
    largest = max(count for _, count in values)
    for number, (label, count) in enumerate(values, start=1):
        y = (top + number * _LINE) * _SCALE
        draw.text((left * _SCALE, y), printable(label)[:28], fill=INK, font=font)
        start, length = (left + _LABEL) * _SCALE, round(_BAR * _SCALE * count / max(largest, 1))
        if length:
            draw.rectangle((start, y + 2 * _SCALE, start + length - 1, y + (_LINE - 4) * _SCALE), fill=_BLUE)
        draw.text((start + length + 4 * _SCALE, y), str(count), fill=INK, font=font)
