"""Colour of hot matter: from about 800 K dark red, then orange, yellow and white."""

import numpy as np

KELVIN = np.array([700.0, 820, 950, 1100, 1300, 1500, 1800])
GLOW = np.array(
    [[0.10, 0.00, 0.00], [0.38, 0.03, 0.00], [0.72, 0.07, 0.01], [0.95, 0.24, 0.02], [1.0, 0.5, 0.06],
     [1.0, 0.76, 0.24], [1.0, 0.95, 0.62]]
)  # fmt: skip
FROM, FULL = 700.0, 950.0  # kelvin between which the body's own colour is blended into the glow


def glowing(temperature: np.ndarray, rgb: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """RGB [..., 3] in 0..1 of hot matter.

    temperature: [...], kelvin.
    rgb: its colour when cold.
    """
    glow = np.stack([np.interp(temperature, KELVIN, channel) for channel in GLOW.T], axis=-1)
    share = np.clip((np.asarray(temperature) - FROM) / (FULL - FROM), 0, 1)[..., None]
    return (1 - share) * np.asarray(rgb) + share * glow


def in_words(temperature: float) -> str:
    """The word for a temperature in kelvin, such as "red-hot"."""
    if temperature < 750:
        return "hot"
    return "red-hot" if temperature < 1150 else "orange-hot" if temperature < 1400 else "white-hot"
