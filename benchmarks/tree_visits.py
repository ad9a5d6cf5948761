"""The number of boxes and leaves that a nearest-neighbour query visits in a tree, and the search time it predicts.

    python -m phys4d.benchmarks.tree_visits [--out DIR]

The native search, compiled for the CPU, counts for every query the groups of four boxes and the leaves of eight points
that it tests. On a GPU the 32 queries of a warp run side by side and take as long as the longest of them. The Triton
kernel searches for 32 queries together and visits every node that any of them needs; an equivalent search in NumPy
counts that on a sample of warps.

The predicted time on an H200 is the time to issue the instructions of all visits of all warps, at the share of an SM's
issue rate that `predictions` assumes. Building the trees, cache misses and divergent lanes of the native search are not
counted, so true times are longer.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phys4d.benchmarks import results
from phys4d.benchmarks.chamfer import simulated, uniform
from phys4d.benchmarks.predictions import GIGAHERTZ, ISSUE_SHARE, SMS
from phys4d.engine.run_folder.provenance import provenance
from phys4d.kernels.geometry.clouds.point_tree import CHILDREN, NO_POINT, PointTree, first_leaf_of, grow_both

WARP = 32
SIZES = (100_000, 345_600)
SAMPLE = 100  # warps that `together` searches for
# Instructions of a warp per group of boxes and per leaf, float32 in three dimensions, counted by hand in the machine
# code of the two kernels for sm_90 (CUDA 13.0, Triton 3.7.1) on the most frequent path.
NATIVE, TRITON = (160, 155), (190, 110)


def counted(x: Tensor, y: Tensor) -> dict[str, float]:
    """Mean counts over queries x [N, 3] in the tree of y [M, 3], and predicted ms; x, y: finite, float32, CPU."""
    clouds, lengths = (x[None], y[None]), [torch.tensor([len(cloud)]) for cloud in (x, y)]
    x_tree, y_tree = grow_both(*clouds, *lengths)
    order = x_tree.order.flatten(1)
    visits = torch.ops.phys4d.tree_visits(clouds[0], lengths[0], order, clouds[1], lengths[1], *y_tree)[0].double()
    along = order[0][order[0] < len(x)].long()
    warps = along[: len(along) // WARP * WARP].view(-1, WARP)
    longest = visits[warps].amax(dim=1).mean(dim=0)
    chosen = warps[:: max(1, len(warps) // SAMPLE)][:SAMPLE]
    packets = np.array([together(x[rows].numpy(), y_tree) for rows in chosen]).mean(axis=0)
    groups, leaves = visits.mean(dim=0).tolist()
    return {
        "groups": groups, "leaves": leaves, "groups_longest": longest[0].item(), "leaves_longest": longest[1].item(),
        "groups_together": float(packets[0]), "leaves_together": float(packets[1]),
        "native_ms": predicted(len(x), longest[0].item(), longest[1].item(), NATIVE),
        "triton_ms": predicted(len(x), float(packets[0]), float(packets[1]), TRITON),
    }  # fmt: skip


def together(queries: np.ndarray, tree: PointTree) -> tuple[int, int]:
    """Groups of boxes and leaves that queries [WARP, 3] visit together, as in `clouds/tree_kernels.py`."""
    points, order, boxes, first = (part[0].numpy() for part in tree)
    inner = first_leaf_of(len(points))
    axes = queries.T[:, None]
    best, found = np.full(len(queries), np.finfo(queries.dtype).max), np.full(len(queries), NO_POINT)
    node, left, trail, groups, leaves = 0, (1 << CHILDREN) - 1, 0, 0, 0
    while left or trail:
        if not left:
            node, left, trail = (node - 1) // CHILDREN, trail & ((1 << CHILDREN) - 1), trail >> CHILDREN
            continue
        groups += 1
        sides = boxes[node][..., None]
        gaps = np.maximum(np.maximum(sides[: len(axes)] - axes, axes + sides[len(axes) :]), 0)
        bound = (gaps * gaps).sum(axis=0)
        wanted = (bound < best) | ((bound == best) & (first[node][:, None] < found))
        open_ = np.array([left >> child & 1 for child in range(CHILDREN)], dtype=bool)
        nearest = np.where(wanted & open_[:, None], bound, np.inf).min(axis=1)
        left = sum(1 << child for child in range(CHILDREN) if nearest[child] < np.inf)
        if not left:
            continue
        child = int(nearest.argmin())
        left &= ~(1 << child)
        down = node * CHILDREN + 1 + child
        if down < inner:
            node, left, trail = down, (1 << CHILDREN) - 1, trail << CHILDREN | left
            continue
        leaves += 1
        squares = ((axes - points[down - inner][:, :, None]) ** 2).sum(axis=0)
        least = squares.min(axis=0)
        index = np.where(squares == least, order[down - inner][:, None], NO_POINT).min(axis=0)
        nearer = (least < best) | ((least == best) & (index < found))
        best, found = np.where(nearer, least, best), np.where(nearer, index, found)
    return groups, leaves


def predicted(points: int, groups: float, leaves: float, instructions: tuple[int, int]) -> float:
    """Milliseconds on an H200 to issue the instructions of a search.

    Args:
        points: number of queries.
        groups, leaves: visits per warp.
        instructions: of a warp per group and per leaf.
    """
    each = groups * instructions[0] + leaves * instructions[1]
    return points / WARP * each / (SMS * 4 * GIGAHERTZ * 1e9 * ISSUE_SHARE) * 1e3


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as markdown."""
    lines = [
        "| clouds | points | groups, leaves per query | longest of 32 | 32 together | native ms | Triton ms |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        pairs = [f"{row['groups' + of]:.0f}, {row['leaves' + of]:.0f}" for of in ("", "_longest", "_together")]
        cells = [row["case"], f"{row['points']:,}", *pairs, f"{row['native_ms']:.2f}", f"{row['triton_ms']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page."""
    return table(result["rows"])


def main() -> None:
    """Counts, prints the table, and with --out writes tree-visits.json to that folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, help="folder for tree-visits.json")
    options = parser.parse_args()
    rows = [
        {"case": name, "points": points} | counted(*make(points))
        for points in SIZES
        for name, make in (("uniform", uniform), ("simulated", simulated))
    ]
    print(table(rows))
    if options.out is not None:
        result = {"kind": "tree-visits", "rows": rows, "provenance": provenance()}
        results.write(options.out / "tree-visits.json", result)


if __name__ == "__main__":
    main()
