"""The picture of the README: two scenes, truth and generated, as one PNG drawn from a run's files."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phys4d.engine.errors import UserError
from phys4d.evaluate.artefacts import STAGES, read_artefacts
from phys4d.evaluate.colours import flow, sequential
from phys4d.evaluate.pictures import hold_last, strip_frames
from phys4d.evaluate.scenes import scene_ranges

_WIDTH, _LABEL, _GAP = 1000, 150, 4
_INK, _SOFT, _PAPER = (27, 31, 36), (92, 102, 112), (255, 255, 255)


def picture(run_folder: Path, out: Path, *, scenes: tuple[int, ...] = (0, 1)) -> None:
    """Write a PNG, 1000 pixels wide: for each scene rows of true RGB and generated RGB, depth and motion.

    Generated means by the last stage of the run. Columns are the frames of the report's filmstrips. Raises
    UserError where the run shows no clips.
    """
    run = read_artefacts(Path(run_folder))
    made = [stage for stage in STAGES if stage in run.stages]
    if not made:
        raise UserError(
            f"no clips: {run.folder / 'evaluation'}: evaluate the run, it writes truth.npz and one per stage"
        )
    stage, arrays = made[-1], run.stages[made[-1]]
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    blocks = []
    for k in [k for k in scenes if k < len(run.truth["video"])]:
        ranges = scene_ranges(run, k)
        depth = sequential(arrays["depth"][k], ranges.near, ranges.far, name="viridis")
        rows = [
            ("truth", "RGB", run.truth["video"][k]),
            ("generated", "RGB", arrays["video"][k]),
            ("generated", f"depth {ranges.near:.1f}–{ranges.far:.1f} m", depth),
            ("generated", "motion", hold_last(flow(arrays["motion"][k], ranges.motion))),
        ]
        blocks.append(_block(str(run.truth["captions"][k]), rows, font, small))
    foot = Image.new("RGB", (_WIDTH, 26), _PAPER)
    frames = ", ".join(str(i) for i in strip_frames(run.truth["video"].shape[1]))
    text = f"Held-out scenes; model after {stage}; frames {frames}; motion: hue = direction, white = rest."
    ImageDraw.Draw(foot).text((8, 4), text, fill=_SOFT, font=small)
    sheet = np.concatenate([*blocks, np.asarray(foot)], axis=0)
    Image.fromarray(sheet).save(out, "PNG", optimize=True)


def _block(
    caption: str,
    rows: list[tuple[str, str, np.ndarray]],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    small: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> np.ndarray:
    """One scene: caption above, then a row of enlarged frames for each (name, what, uint8 [T, H, W, 3])."""
    shown = strip_frames(len(rows[0][2]))
    height, width = rows[0][2].shape[1:3]
    scale = max(1, (_WIDTH - _LABEL - _GAP * len(shown)) // (len(shown) * width))
    row = height * scale + _GAP
    image = Image.new("RGB", (_WIDTH, 34 + row * len(rows) + 10), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((8, 8), f"“{caption}”", fill=_INK, font=font)
    for r, (name, what, frames) in enumerate(rows):
        top = 34 + r * row
        draw.text((8, top + 6), name, fill=_INK, font=font)
        draw.text((8, top + 26), what, fill=_SOFT, font=small)
        for c, t in enumerate(shown):
            tile = Image.fromarray(frames[t]).resize(
                (width * scale, height * scale), Image.Resampling.NEAREST
            )
            image.paste(tile, (_LABEL + c * (width * scale + _GAP), top))
    return np.asarray(image)
