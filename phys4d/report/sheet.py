"""The contact sheet of a dataset: one picture that shows its first clips and their truth."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phys4d.engine.data.clip.schema import AFFINE, depth_kind
from phys4d.engine.data.dataset import ClipDataset, Sample
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location
from phys4d.engine.output import check_file, write_file
from phys4d.report.colours import MISSING, flow, sequential

COLUMNS = 2  # clips side by side
FRAMES = 5  # of each clip, first to last
GAP, LINE, RULE, GREY = 4, 15, 2, 213  # pixels, and the grey level of rules
KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
INK, PAPER = (27, 31, 36), (255, 255, 255)
# Distinct colours for instances 1, 2, ...; repeated if there are more.
INSTANCES = np.array(
    [(176, 190, 197), (120, 144, 156), (229, 57, 53), (30, 136, 229), (67, 160, 71), (253, 216, 53), (142, 36, 170),
     (251, 140, 0), (0, 172, 193), (216, 27, 96), (109, 76, 65)], dtype=np.uint8,
)  # fmt: skip


def contact_sheet(dataset: Location, out: Path, *, clips: int = 36) -> int:
    """Writes a PNG or JPEG of the first `clips` clips and returns their number.

    For each clip: frames from first to last, then depth, motion, visibility in the next frame and instances of the
        middle frame; unknown values are grey.

    dataset: dataset folder, or its URL.
    out: path that ends in .png, .jpg or .jpeg.
    clips: number of clips.

    Raises UserError if the dataset cannot be read or is empty, or `out` has another ending or cannot be written.
    """
    if out.suffix.lower() not in KINDS:
        raise UserError(f"{out}: expected a name that ends in {', '.join(KINDS)}")
    if clips < 1:
        raise UserError(f"--clips {clips}: expected 1 or more")
    data = ClipDataset(dataset)
    count = min(clips, len(data))
    if count == 0:
        raise UserError(f"{dataset}: no clips: simulate some first")
    check_file(out)
    tiles = [_tile(data[index]) for index in range(count)]
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    rows = -(-count // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + GAP), rows * (height + GAP)), PAPER)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, COLUMNS)
        sheet.paste(tile, (column * (width + GAP), row * (height + GAP)))
    picture = BytesIO()
    sheet.save(picture, KINDS[out.suffix.lower()], optimize=True, quality=88)
    write_file(out, picture.getvalue())
    return count


def _tile(sample: Sample) -> Image.Image:
    """A clip with its caption above."""
    frames = sample.video.shape[0]
    pictures = [sample.video[t] for t in np.linspace(0, frames - 1, FRAMES).round().astype(int)]
    pictures += _truth(sample, (frames - 1) // 2)
    rule = np.full((sample.video.shape[1], RULE, 3), GREY, dtype=np.uint8)
    strip = np.concatenate([part for picture in pictures for part in (picture, rule)], axis=1)
    tile = Image.new("RGB", (strip.shape[1], strip.shape[0] + 2 * LINE), PAPER)
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(11)
    meta = sample.meta
    title = " ".join(str(meta[name]) for name in ("category", "family") if name in meta)
    draw.text((2, 0), title, fill=INK, font=font)
    draw.text((2, LINE), str(meta.get("caption", "")), fill=INK, font=font)
    tile.paste(Image.fromarray(strip), (0, 2 * LINE))
    return tile


def _truth(sample: Sample, t: int) -> list[np.ndarray]:
    """The truth of frame t, each array as uint8 [H, W, 3]."""
    arrays, shown = sample.arrays, []
    if "depth" in arrays:
        depth, valid = arrays["depth"][t], arrays["depth_valid"][t]
        if depth_kind(sample.meta) == AFFINE:
            depth = -depth  # near is drawn as it is in metres
        low, high = (float(value) for value in np.quantile(depth[valid], (0.02, 0.98))) if valid.any() else (0.0, 1.0)
        shown.append(sequential(depth, low, high, name="viridis", valid=valid))
    if "motion" in arrays:
        motion = np.where(arrays["flow_valid"][t], arrays["motion"][:2, t], np.nan)
        fast = np.nanquantile(np.hypot(*motion), 0.98) if np.isfinite(motion).any() else 1.0
        shown.append(flow(motion, max(float(fast), 0.5)))
    if "visible" in arrays:
        seen = np.where(arrays["visible"][t], 255, 0).astype(np.uint8)
        grey = np.where(arrays["flow_valid"][t], seen, MISSING[0]).astype(np.uint8)
        shown.append(np.repeat(grey[..., None], 3, axis=2))
    if "instance" in arrays:
        number = arrays["instance"][t].astype(int)
        colours = INSTANCES[(number - 1) % len(INSTANCES)]
        shown.append(np.where((number > 0)[..., None], colours, np.array(MISSING, dtype=np.uint8)))
    return shown
