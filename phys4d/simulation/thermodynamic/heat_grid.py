"""Heat conduction in a plate or a bar: the heat equation on a grid of cells, insulated at its edges."""

import numpy as np

STABLE = 0.4  # time step over the stability limit of the explicit scheme


class HeatGrid:
    """Temperatures of the cells of a plate; a bar is a plate one cell wide.

    temperature: float64 [X, Y], kelvin, initial.
    cell: edges (x, y) of a cell, metres.
    diffusivity: m2/s.
    """

    def __init__(self, temperature: np.ndarray, cell: tuple[float, float], diffusivity: float) -> None:
        self.temperature = temperature.astype(np.float64)
        self._weights = [diffusivity / edge**2 for edge in cell]

    def advance(self, seconds: float, gain: np.ndarray | None = None) -> None:
        """Advances by `seconds`.

        gain: float64 [X, Y], K/s, heating of each cell from outside.
        """
        steps = int(np.ceil(2 * seconds * sum(self._weights) / STABLE))
        for _ in range(max(steps, 1)):
            rate = sum(w * _second_difference(self.temperature, axis) for axis, w in enumerate(self._weights))
            self.temperature = self.temperature + seconds / max(steps, 1) * (rate + (0 if gain is None else gain))


def _second_difference(values: np.ndarray, axis: int) -> np.ndarray:
    """Sum of the differences to both neighbours along an axis; zero flux at the edges."""
    flow = np.diff(values, axis=axis)
    edge = [(1, 1) if i == axis else (0, 0) for i in range(values.ndim)]
    return np.diff(np.pad(flow, edge), axis=axis)
