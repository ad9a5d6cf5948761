"""The picture of the README: two scenes, true and generated, as one PNG from a run's files."""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phys4d.engine.errors import UserError
from phys4d.report.artefacts import MEASURED, Artefacts, read_artefacts
from phys4d.report.colours import flow, sequential
from phys4d.report.pictures import hold_last, strip_frames
from phys4d.report.ranges import true_ranges

_LABEL, _GAP, _TILE = 96, 4, 96  # pixels; a tile is a frame enlarged by a whole factor, about this wide
_CAPTION = 44  # pixels above the frames, for two lines
_INK, _SOFT, _RULE, _PAPER = (27, 31, 36), (92, 102, 112), (213, 218, 222), (255, 255, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def picture(run_folder: Path, out: Path, *, scenes: tuple[int, ...] = (0, 1)) -> None:
    """Writes a PNG with scenes side by side: rows of true RGB and of generated RGB, depth and motion.

    Generated clips are those of the run's last stage; columns are five frames of the clips. About 1000
    pixels wide for two scenes.

    run_folder: of a finished run.
    out: path of the PNG.
    scenes: numbers of the scenes.

    Raises UserError if the run has no clips or lacks one of these scenes.
    """
    run = read_artefacts(Path(run_folder))
    evaluated = [stage for stage in MEASURED if stage in run.stages]
    if not evaluated:
        raise UserError(f"no clips: {run.folder / 'evaluation'}: evaluate the run, that writes truth.npz and more")
    count = len(run.truth["keys"])
    if max(scenes) >= count:
        raise UserError(f"no scene {max(scenes)}: {run.folder / 'evaluation'}: it holds scenes 0 to {count - 1}")
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    columns = [_scene(run, k, font) for k in scenes]
    height, width = columns[0].shape[0], sum(column.shape[1] for column in columns) + _LABEL
    sheet = Image.new("RGB", (width, height + 24), _PAPER)
    draw = ImageDraw.Draw(sheet)
    row = (height - _CAPTION) // 4
    names = (("truth", "RGB"), ("generated", "RGB"), ("generated", "depth"), ("generated", "motion"))
    for r, (source, quantity) in enumerate(names):
        draw.text((6, _CAPTION + r * row + 4), source, fill=_INK, font=font)
        draw.text((6, _CAPTION + r * row + 22), quantity, fill=_SOFT, font=small)
    left = _LABEL
    for column in columns:
        sheet.paste(Image.fromarray(column), (left, 0))
        left += column.shape[1]
    frames = ", ".join(str(i) for i in strip_frames(run.truth["video"].shape[1]))
    text = (
        f"Held-out scenes, model after {evaluated[-1]}, frames {frames}. Depth: dark near, yellow far. "
        "Motion: hue is the direction (right red, down yellow, left cyan, up violet), white is rest."
    )
    draw.text((6, height + 4), text, fill=_SOFT, font=small)
    sheet.save(out, "PNG", optimize=True)


def _scene(run: Artefacts, k: int, font: Font) -> np.ndarray:
    """The caption above four rows of enlarged frames, uint8 [H, W, 3]."""
    arrays = run.stages[[stage for stage in MEASURED if stage in run.stages][-1]]
    ranges = true_ranges(run.truth["depth"][k], run.truth["motion"][k])
    rows = (
        run.truth["video"][k],
        arrays["video"][k],
        sequential(arrays["depth"][k], ranges.near, ranges.far, name="viridis"),
        hold_last(flow(arrays["motion"][k], ranges.motion)),
    )
    shown = strip_frames(len(rows[0]))
    height, width = rows[0].shape[1:3]
    scale = max(1, round(_TILE / width))
    tile = (width * scale, height * scale)
    image = Image.new("RGB", (len(shown) * (tile[0] + _GAP) + 10, _CAPTION + len(rows) * (tile[1] + _GAP)), _PAPER)
    caption = textwrap.fill(str(run.truth["captions"][k]), width=image.width // 7, max_lines=2)
    draw = ImageDraw.Draw(image)
    draw.text((0, 6), caption, fill=_INK, font=font)
    for r, frames in enumerate(rows):
        for c, t in enumerate(shown):
            frame = Image.fromarray(frames[t]).resize(tile, Image.Resampling.NEAREST)
            left, top = c * (tile[0] + _GAP) + 1, _CAPTION + r * (tile[1] + _GAP) + 1
            draw.rectangle((left - 1, top - 1, left + tile[0], top + tile[1]), outline=_RULE)
            image.paste(frame, (left, top))
    return np.asarray(image)
