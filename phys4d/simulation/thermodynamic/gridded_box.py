"""A box whose faces are grids, so that every vertex can have its own colour."""

import numpy as np

from phys4d.simulation.shapes import Mesh


def gridded_box(half: tuple[float, ...], cells: tuple[int, int, int]) -> Mesh:
    """Vertices float64 [V, 3] in metres and outward faces int32 [F, 3]; vertices are split at the box's edges.

    half: half extents, metres.
    cells: cells along x, y and z.
    """
    vertices, faces, count = [], [], 0
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1, 1):
            i, j = (np.linspace(-1, 1, cells[k] + 1) for k in (first, second))
            side = np.empty((len(i), len(j), 3))
            side[..., axis], side[..., first], side[..., second] = sign, i[:, None], j[None]
            index = count + np.arange(len(i) * len(j)).reshape(len(i), len(j))
            a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
            corners = [(a, b, c), (a, c, d)] if sign > 0 else [(a, c, b), (a, d, c)]
            faces += [np.stack([p.ravel(), q.ravel(), r.ravel()], axis=1) for p, q, r in corners]
            vertices.append(side.reshape(-1, 3) * np.array(half))
            count += index.size
    return np.concatenate(vertices), np.concatenate(faces).astype(np.int32)
