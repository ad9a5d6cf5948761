"""The picture of the README: scenes, the truth and every stage side by side, as one PNG from a run's files."""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phys4d.engine.errors import UserError
from phys4d.report.artefacts import MEASURED, Artefacts, read_artefacts
from phys4d.report.colours import flow, sequential
from phys4d.report.pictures import hold_last
from phys4d.report.ranges import true_ranges

_LABEL, _GAP, _TILE = 96, 4, 96  # pixels; a tile is a frame enlarged by a whole factor, about this wide
_CAPTION, _HEAD, _BETWEEN = 58, 22, 14  # pixels above the frames for three lines, for titles; between scenes
_INK, _SOFT, _RULE, _PAPER = (27, 31, 36), (92, 102, 112), (213, 218, 222), (255, 255, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def picture(run_folder: Path, out: Path, *, scenes: tuple[int, ...] = (0, 1)) -> None:
    """Writes a PNG with scenes side by side, each with a column of the truth and one of what each stage generates.

    Rows are RGB of four frames, depth of the last, and motion in the middle. About 1000 pixels wide for two scenes
    and three stages.

    run_folder: of a finished run.
    out: path of the PNG.
    scenes: numbers of the scenes.

    Raises UserError if the run has no clips or lacks one of these scenes.
    """
    run = read_artefacts(Path(run_folder))
    stages = [stage for stage in MEASURED if stage in run.stages]
    if not stages:
        raise UserError(f"no clips: {run.folder / 'evaluation'}: evaluate the run, that writes truth.npz and more")
    count = len(run.truth["keys"])
    if max(scenes) >= count:
        raise UserError(f"no scene {max(scenes)}: {run.folder / 'evaluation'}: it holds scenes 0 to {count - 1}")
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    blocks = [_scene(run, k, stages, font, small) for k in scenes]
    height, width = blocks[0].shape[0], sum(block.shape[1] for block in blocks) + _BETWEEN * (len(blocks) - 1) + _LABEL
    sheet = Image.new("RGB", (width, height + 24), _PAPER)
    draw = ImageDraw.Draw(sheet)
    rows, row = _rows(run.truth["video"].shape[1]), (height - _CAPTION - _HEAD)
    for r, (quantity, t) in enumerate(rows):
        top = _CAPTION + _HEAD + r * row // len(rows)
        draw.text((6, top + 4), quantity, fill=_INK, font=font)
        draw.text((6, top + 22), "frame 0, given" if t == 0 else f"frame {t}", fill=_SOFT, font=small)
    left = _LABEL
    for block in blocks:
        sheet.paste(Image.fromarray(block), (left, 0))
        left += block.shape[1] + _BETWEEN
    text = (
        "Held-out scenes. Depth: dark near, yellow far. "
        "Motion: hue is the direction (right red, down yellow, left cyan, up violet), white is rest."
    )
    draw.text((6, height + 4), text, fill=_SOFT, font=small)
    sheet.save(out, "PNG", optimize=True)


def _rows(frames: int) -> list[tuple[str, int]]:
    """What each row shows, and of which frame."""
    last = frames - 1
    colours = [("RGB", t) for t in sorted({0, round(last / 3), round(2 * last / 3), last})]
    return [*colours, ("depth", last), ("motion", round(last / 3))]


def _scene(run: Artefacts, k: int, stages: list[str], font: Font, small: Font) -> np.ndarray:
    """The caption above columns of enlarged frames, uint8 [H, W, 3]."""
    ranges = true_ranges(run.truth["depth"][k], run.truth["motion"][k])
    columns = {"truth": run.truth, **{stage: run.stages[stage] for stage in stages}}
    pictures = [
        {
            "RGB": arrays["video"][k],
            "depth": sequential(arrays["depth"][k], ranges.near, ranges.far, name="viridis"),
            "motion": hold_last(flow(arrays["motion"][k], ranges.motion)),
        }
        for arrays in columns.values()
    ]
    rows = _rows(len(run.truth["video"][k]))
    height, width = run.truth["video"][k].shape[1:3]
    scale = max(1, round(_TILE / width))
    tile = (width * scale, height * scale)
    size = (len(columns) * (tile[0] + _GAP), _CAPTION + _HEAD + len(rows) * (tile[1] + _GAP))
    image = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(image)
    caption = textwrap.fill(str(run.truth["captions"][k]), width=max(20, image.width // 7), max_lines=3)
    draw.text((0, 2), caption, fill=_SOFT, font=font)
    for c, (title, shown) in enumerate(zip(columns, pictures, strict=True)):
        left = c * (tile[0] + _GAP) + 1
        draw.text((left, _CAPTION), title.replace("_", " "), fill=_INK, font=small)
        for r, (quantity, t) in enumerate(rows):
            top = _CAPTION + _HEAD + r * (tile[1] + _GAP) + 1
            frame = Image.fromarray(shown[quantity][t]).resize(tile, Image.Resampling.NEAREST)
            draw.rectangle((left - 1, top - 1, left + tile[0], top + tile[1]), outline=_RULE)
            image.paste(frame, (left, top))
    return np.asarray(image)
