"""Colour maps: sequential maps for depth and error, and the flow colour wheel for motion."""

import numpy as np

# Nine equidistant stops of matplotlib's perceptually uniform maps (CC0), joined linearly.
_STOPS = {
    "viridis": "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
    "magma": "000004 1d1147 51127c 832681 b73779 e75263 fc8961 fec488 fcfdbf",
}
MISSING = (128, 128, 128)  # colour of pixels without a value


def table(name: str) -> np.ndarray:
    """The colour map `name` ("viridis" or "magma") as uint8 [256, 3] RGB."""
    stops = np.array([list(bytes.fromhex(stop)) for stop in _STOPS[name].split()], dtype=np.float64)
    at, position = np.linspace(0, 1, 256), np.linspace(0, 1, len(stops))
    return np.stack([np.interp(at, position, stops[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def sequential(
    values: np.ndarray, low: float, high: float, *, name: str, valid: np.ndarray | None = None
) -> np.ndarray:
    """Colours scalars by a sequential map; values outside of the range get the map's end colours.

    values: float [...].
    low, high: values of the map's first and last colour.
    name: "viridis" or "magma".
    valid: bool [...]; False is grey, as is every value that is not finite.

    Returns uint8 [..., 3].
    """
    known = np.isfinite(values)
    scaled = (np.where(known, values, low) - low) / max(high - low, 1e-12)
    colours = table(name)[(np.clip(scaled, 0, 1) * 255).round().astype(np.int64)]
    shown = known if valid is None else known & valid
    return np.where(shown[..., None], colours, np.array(MISSING, dtype=np.uint8))


def _wheel() -> np.ndarray:
    """The 55 hues of the Middlebury flow wheel, float [55, 3] in [0, 1], red first."""
    red, yellow, green, cyan, blue, magenta = np.array(
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], dtype=np.float64
    )
    arcs = [
        (15, red, yellow),
        (6, yellow, green),
        (4, green, cyan),
        (11, cyan, blue),
        (13, blue, magenta),
        (6, magenta, red),
    ]
    return np.concatenate([start + (end - start) * (np.arange(n) / n)[:, None] for n, start, end in arcs], axis=0)


def flow(motion: np.ndarray, scale: float) -> np.ndarray:
    """Colours image motion by the Middlebury wheel (Baker et al., "A Database and Evaluation Methodology for Optical
    Flow", 2007).

    The hue is the direction (right red, down yellow, left cyan, up violet), white is rest; values that are not finite
    are grey.

    motion: float [C >= 2, ..., H, W], du, dv in pixels (u right, v down); further channels are ignored.
    scale: magnitude in pixels of full saturation; larger motion has the same colour.

    Returns uint8 [..., H, W, 3].
    """
    known = np.isfinite(motion[:2]).all(axis=0)
    du, dv = np.where(known, motion[:2], 0.0)
    magnitude = np.clip(np.hypot(du, dv) / scale, 0, 1)[..., None]
    wheel = _wheel()
    position = (np.arctan2(dv, du) / (2 * np.pi) % 1.0) * len(wheel)
    first = np.floor(position).astype(np.int64) % len(wheel)
    rest = (position - np.floor(position))[..., None]
    hue = (1 - rest) * wheel[first] + rest * wheel[(first + 1) % len(wheel)]
    colours = (255 * (1 - magnitude * (1 - hue))).round().astype(np.uint8)
    return np.where(known[..., None], colours, np.array(MISSING, dtype=np.uint8))


def flow_legend(size: int = 96) -> np.ndarray:
    """The flow wheel, uint8 [size, size, 4] RGBA: the centre is rest, the rim is full saturation."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    v, u = np.meshgrid(axis, axis, indexing="ij")
    disc = (np.hypot(u, v) <= 1)[..., None]
    return np.concatenate([flow(np.stack([u, v]), 1.0), disc * np.uint8(255)], axis=-1)
