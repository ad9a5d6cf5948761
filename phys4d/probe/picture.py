"""Numbers of a sweep as heat maps."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phys4d.engine.errors import printable
from phys4d.engine.output import write_file
from phys4d.report.colours import sequential
from phys4d.report.sheet import INK, PAPER

_SCALE, _GAP, _LINE = 2, 16, 18  # pixels, but for the first
_CELL, _MARK, _CORNER = (62, 22), (229, 57, 53), "block \\ sigma"


class Panel(NamedTuple):
    """One heat map.

    title: above it. unit, note: below the title. rows, columns: their labels. values: a list for each row; the smallest
    is marked.
    """

    title: str
    unit: str
    note: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]


def heat_maps(panels: Sequence[Panel], title: str, out: Path) -> None:
    """Writes a PNG of panels side by side: each cell with its number, coloured from its panel's smallest to its largest
    (bright is better), the smallest one framed. UserError where the file cannot be written."""
    bold = ImageFont.load_default(13 * _SCALE)
    label = max(_text_width(bold, t) for panel in panels for t in (*panel.rows, _CORNER)) // _SCALE
    widths = [
        max(label + len(panel.columns) * _CELL[0], *(_text_width(bold, t) // _SCALE for t in panel[:3]))
        for panel in panels
    ]
    width = max(sum(widths) + (len(panels) + 1) * _GAP * 2, _text_width(bold, title) // _SCALE + 2 * _GAP)
    height = 7 * _LINE + max(len(panel.rows) for panel in panels) * _CELL[1] + _GAP
    picture = Image.new("RGB", (width * _SCALE, height * _SCALE), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((2 * _GAP * _SCALE, _GAP // 2 * _SCALE), printable(title), fill=INK, font=bold)
    left = 2 * _GAP
    for panel, wide in zip(panels, widths, strict=True):
        _draw(draw, panel, left, label)
        left += wide + 2 * _GAP
    data = BytesIO()
    picture.save(data, "PNG", optimize=True)
    write_file(out, data.getvalue())


def _draw(draw: ImageDraw.ImageDraw, panel: Panel, left: int, label: int) -> None:
    font, bold = ImageFont.load_default(11 * _SCALE), ImageFont.load_default(13 * _SCALE)
    values = np.array(panel.values)
    colours = sequential(-values, -float(values.max()), -float(values.min()), name="viridis")
    for number, (text, used) in enumerate(((panel.title, bold), (panel.unit, font), (panel.note, font))):
        draw.text((left * _SCALE, (2 * _LINE + number * _LINE) * _SCALE), printable(text), fill=INK, font=used)
    draw.text((left * _SCALE, (5 * _LINE + 7) * _SCALE), _CORNER, fill=INK, font=font, anchor="lm")
    for column, text in enumerate(panel.columns):
        x = (left + label + column * _CELL[0] + _CELL[0] // 2) * _SCALE
        draw.text((x, (5 * _LINE + 7) * _SCALE), text, fill=INK, font=font, anchor="mm")
    for row, text in enumerate(panel.rows):
        y = 6 * _LINE + row * _CELL[1]
        draw.text((left * _SCALE, (y + _CELL[1] // 2) * _SCALE), text, fill=INK, font=font, anchor="lm")
        for column, value in enumerate(values[row]):
            x = left + label + column * _CELL[0]
            box = (x * _SCALE, y * _SCALE, (x + _CELL[0] - 1) * _SCALE, (y + _CELL[1] - 1) * _SCALE)
            colour = tuple(int(c) for c in colours[row, column])
            least = value == values.min()
            draw.rectangle(box, fill=colour, outline=_MARK if least else None, width=2 * _SCALE if least else 0)
            ink = INK if sum(colour) > 330 else PAPER
            middle = ((x + _CELL[0] // 2) * _SCALE, (y + _CELL[1] // 2) * _SCALE)
            draw.text(middle, f"{value:.3f}", fill=ink, font=font, anchor="mm")


def _text_width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return round(font.getlength(printable(text)))
