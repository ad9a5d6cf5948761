"""One held-out scene as HTML: geometry read from the true video, and the generated clip, next to the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from phys4d.report.artefacts import MEASURED, Artefacts
from phys4d.report.colours import flow, sequential
from phys4d.report.pictures import address, hold_last, sheet, strip_frames
from phys4d.report.tables import number
from phys4d.stages.registry import STAGES

READERS = tuple(name for name in MEASURED if STAGES[name].trains_reader)


@dataclass(frozen=True)
class Ranges:
    """Common colour ranges of one scene.

    near, far: depth, metres.
    motion: pixels.
    depth_error: relative.
    motion_error: pixels.
    colour_error: grey levels of 255.
    """

    near: float
    far: float
    motion: float
    depth_error: float
    motion_error: float
    colour_error: float


def scene_ranges(run: Artefacts, k: int) -> Ranges:
    """Depth and motion ranges from the truth only, error ranges from the 99th percentile over all stages."""
    depth, motion = run.truth["depth"][k], run.truth["motion"][k]
    surface = depth[depth > 0]
    near, far = (float(q) for q in np.percentile(surface, [0, 99.5])) if surface.size else (0.0, 1.0)
    depth_errors = [depth_error(run.stages[s]["read_depth"][k], depth) for s in READERS if s in run.stages]
    motion_errors = [motion_error(run.stages[s]["read_motion"][k], motion) for s in READERS if s in run.stages]
    colour_errors = [colour_error(arrays["video"][k], run.truth["video"][k]) for arrays in run.stages.values()]
    return Ranges(
        near=near,
        far=far,
        motion=_percentile([np.hypot(motion[0], motion[1])], 99.9, at_least=0.5),
        depth_error=_percentile(depth_errors, 99, at_least=0.05),
        motion_error=_percentile(motion_errors, 99, at_least=0.5),
        colour_error=_percentile(colour_errors, 99, at_least=16),
    )


def depth_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Relative depth error |d − d*| / d*, [T, H, W]; NaN if there is no surface."""
    return np.abs(predicted - truth) / np.where(truth > 0, truth, np.nan)


def motion_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """End-point error in pixels, [T-1, H, W], of motion [3, T-1, H, W]."""
    return np.hypot(predicted[0] - truth[0], predicted[1] - truth[1])


def colour_error(generated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute difference over R, G, B, [T, H, W], in grey levels of 255."""
    return np.abs(generated.astype(np.float64) - truth.astype(np.float64)).mean(axis=-1)


def scene(run: Artefacts, k: int, title: str, *, worst: dict[str, int], expanded: bool) -> str:
    """Scene k as a <details> element.

    run: files of the run.
    k: number of the scene.
    title: precedes the number.
    worst: stage -> the shown scene with its lowest reward.
    expanded: the element is open.
    """
    ranges = scene_ranges(run, k)
    caption, key = str(run.truth["captions"][k]), str(run.truth["keys"][k])
    video, depth, motion = (run.truth[name][k] for name in ("video", "depth", "motion"))
    sheets = {"rgb": video, "depth": _depth(depth, ranges), "motion": _motion(motion, ranges)}
    style = "".join(f"--truth-{name}:url({address(sheet(frames))});" for name, frames in sheets.items())
    return (
        f'<details class="scene"{" open" if expanded else ""} style="{style}"><summary><b>{title} {k + 1}</b> '
        f"“{escape(caption)}” <small>{escape(key)}</small></summary>"
        f"<h3>Read off the true video</h3>{_legend(ranges, generated=False)}{_read(run, k, ranges)}"
        f"<h3>Generated from the first frame and the caption</h3>{_legend(ranges, generated=True)}"
        f"{_generated(run, k, ranges, worst)}</details>"
    )


def _read(run: Artefacts, k: int, ranges: Ranges) -> str:
    depth, motion = run.truth["depth"][k], run.truth["motion"][k]
    rows = [_head("RGB", "depth", "motion", "depth error", "motion error"), *_truth(run, empty=2)]
    for stage in READERS:
        rows.append(_label(stage))
        if stage not in run.stages:
            rows.append(_absent(stage, 5))
            continue
        read_depth, read_motion = (run.stages[stage][name][k] for name in ("read_depth", "read_motion"))
        relative, pixels = depth_error(read_depth, depth), motion_error(read_motion, motion)
        off_depth = _error(relative, ranges.depth_error)
        off_motion = hold_last(_error(pixels, ranges.motion_error))
        rows += [
            _empty("the same video"),
            _cell(f"{stage}: depth", _depth(read_depth, ranges)),
            _cell(f"{stage}: motion", _motion(read_motion, ranges)),
            _cell(f"{stage}: depth error", off_depth, f"mean {100 * _mean(relative):.1f} %"),
            _cell(f"{stage}: motion error", off_motion, f"mean {_mean(pixels):.2f} px"),
        ]
    return f'<div class="grid five">{"".join(rows)}</div>'


def _generated(run: Artefacts, k: int, ranges: Ranges, worst: dict[str, int]) -> str:
    rows = [_head("RGB", "depth", "motion", "RGB error against truth"), *_truth(run, empty=1)]
    for stage in MEASURED:
        if stage not in run.stages:
            rows += [_label(stage), _absent(stage, 4)]
            continue
        arrays = run.stages[stage]
        flag = "worst of those shown" if worst.get(stage) == k else ""
        off = colour_error(arrays["video"][k], run.truth["video"][k])
        rows += [
            _label(stage, f"reward {number(float(arrays['reward'][k]), 3)}", flag),
            _cell(f"{stage}: RGB", arrays["video"][k]),
            _cell(f"{stage}: depth", _depth(arrays["depth"][k], ranges)),
            _cell(f"{stage}: motion", _motion(arrays["motion"][k], ranges)),
            _cell(f"{stage}: RGB error", _error(off, ranges.colour_error), f"mean {_mean(off):.1f}"),
        ]
    return f'<div class="grid four">{"".join(rows)}</div>'


def _truth(run: Artefacts, *, empty: int) -> list[str]:
    """The row of the truth; its sheets are stored once, in the scene's style attribute."""
    frames = run.truth["video"].shape[1]
    cells = [_clip(f"truth: {name}", f"var(--truth-{name})", frames) for name in ("rgb", "depth", "motion")]
    return [_label("truth"), *cells, *[_empty()] * empty]


def _depth(depth: np.ndarray, ranges: Ranges) -> np.ndarray:
    return sequential(depth, ranges.near, ranges.far, name="viridis", valid=depth > 0)


def _motion(motion: np.ndarray, ranges: Ranges) -> np.ndarray:
    return hold_last(flow(motion, ranges.motion))


def _error(values: np.ndarray, high: float) -> np.ndarray:
    return sequential(values, 0.0, high, name="magma")


def _cell(name: str, frames: np.ndarray, note: str = "") -> str:
    """A cell with its own sheet of frames uint8 [T, H, W, 3]."""
    return _clip(name, f"url({address(sheet(frames))})", len(frames), note)


def _clip(name: str, source: str, frames: int, note: str = "") -> str:
    """The looping clip, a note next to it, and its filmstrip below."""
    strip = "<i></i>" * len(strip_frames(frames))
    return (
        f'<div class="cell" style="--sheet:{source}">'
        f'<div class="clip" role="img" aria-label="{escape(name)}"></div>'
        f'<span class="note">{escape(note)}</span><div class="strip">{strip}</div></div>'
    )


def _legend(ranges: Ranges, *, generated: bool) -> str:
    bars = [_bar("viridis", "depth", f"{ranges.near:.2f} m", f"{ranges.far:.2f} m")]
    wheel = (
        f'<span class="key">motion <i class="wheel"></i> hue = direction in the image, '
        f"rim = {ranges.motion:.2f} px per frame, white = rest</span>"
    )
    bars.append(wheel)
    if generated:
        bars.append(_bar("magma", "RGB error", "0", f"{ranges.colour_error:.0f} of 255"))
    else:
        bars.append(_bar("magma", "depth error", "0", f"{100 * ranges.depth_error:.0f} % of the true depth"))
        bars.append(_bar("magma", "motion error", "0", f"{ranges.motion_error:.2f} px"))
    return f'<p class="legend">{"".join(bars)}</p>'


def _bar(name: str, what: str, low: str, high: str) -> str:
    return f'<span class="key">{what} {low} <i class="bar {name}"></i> {high}</span>'


def _head(*titles: str) -> str:
    return "<span></span>" + "".join(f'<span class="head">{title}</span>' for title in titles)


def _label(name: str, note: str = "", flag: str = "") -> str:
    small = f"<small>{escape(note)}</small>" if note else ""
    mark = f'<em class="flag">{escape(flag)}</em>' if flag else ""
    return f'<div class="label"><b>{escape(name)}</b>{small}{mark}</div>'


def _empty(text: str = "") -> str:
    return f'<div class="cell empty">{escape(text)}</div>'


def _absent(stage: str, columns: int) -> str:
    return f'<div class="absent" style="grid-column: span {columns}">evaluation/{stage}.npz is absent</div>'


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _percentile(arrays: Sequence[np.ndarray], percent: float, *, at_least: float) -> float:
    known = [array[np.isfinite(array)] for array in arrays]
    values = np.concatenate(known) if known else np.empty(0)
    return max(at_least, float(np.percentile(values, percent))) if values.size else at_least
