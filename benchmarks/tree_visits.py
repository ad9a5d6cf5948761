"""How much of a tree a nearest-neighbour query meets: boxes and leaves, counted on a CPU, of the walks of a GPU.

    python -m phys4d.benchmarks.tree_visits [--out DIR]

The native walk, compiled for the CPU, counts for every query the groups of four boxes and the leaves of eight points
that it is compared with. Side by side on a GPU 32 queries take as long as the longest of them; the Triton kernel lets
32 walk together, through all that any of them wants, which is counted by a twin of its walk on a sample.

From these counts follows how long a search should take on an H200, before anyone has measured it: the instructions of
all steps of all warps, at the share of an SM's issue rate that `predictions` assumes. Making the trees, waiting for
memory that is not in a cache, and lanes of the native walk that fall out of step are left out, so it errs on the fast
side.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phys4d.benchmarks.chamfer import simulated, uniform
from phys4d.benchmarks.predictions import GIGAHERTZ, ISSUE_SHARE, SMS
from phys4d.kernels.geometry.clouds.point_tree import CHILDREN, NOBODY, PointTree, first_leaf_of, grow_both

WARP = 32
SIZES = (100_000, 345_600)
SAMPLE = 100  # warps that are walked by the twin
# Instructions of a warp for a group of boxes and for a leaf, float32 in three dimensions: read off the machine code of
# the two kernels for sm_90 (CUDA 13.0, Triton 3.7.1), the common path alone.
NATIVE, TRITON = (160, 155), (190, 110)


def counted(x: Tensor, y: Tensor) -> dict[str, float]:
    """Means over the queries x [N, 3] to the tree of y [M, 3], both float32 on the CPU and finite."""
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
    """Groups of boxes and leaves that queries [WARP, 3] meet together, as in `clouds/tree_kernels.py`."""
    points, order, boxes, first = (part[0].numpy() for part in tree)
    inner = first_leaf_of(len(points))
    axes = queries.T[:, None]
    best, found = np.full(len(queries), np.finfo(queries.dtype).max), np.full(len(queries), NOBODY)
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
        index = np.where(squares == least, order[down - inner][:, None], NOBODY).min(axis=0)
        nearer = (least < best) | ((least == best) & (index < found))
        best, found = np.where(nearer, least, best), np.where(nearer, index, found)
    return groups, leaves


def predicted(points: int, groups: float, leaves: float, instructions: tuple[int, int]) -> float:
    """Milliseconds on an H200 to issue what so many queries take, a warp of which meets so many groups and leaves."""
    each = groups * instructions[0] + leaves * instructions[1]
    return points / WARP * each / (SMS * 4 * GIGAHERTZ * 1e9 * ISSUE_SHARE) * 1e3


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as markdown."""
    lines = [
        "| clouds | points | a query: groups, leaves | the longest of 32 | 32 together | native ms | Triton ms |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        pairs = [f"{row['groups' + of]:.0f}, {row['leaves' + of]:.0f}" for of in ("", "_longest", "_together")]
        cells = [row["case"], f"{row['points']:,}", *pairs, f"{row['native_ms']:.2f}", f"{row['triton_ms']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Counts, prints a table, and writes tree-visits.json below --out."""
    from phys4d.engine.telemetry import provenance

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, help="folder for tree-visits.json")
    given = parser.parse_args()
    rows = [
        {"case": name, "points": points} | counted(*make(points))
        for points in SIZES
        for name, make in (("uniform", uniform), ("simulated", simulated))
    ]
    print(table(rows))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        result = {"kind": "tree-visits", "rows": rows, "provenance": provenance()}
        (given.out / "tree-visits.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
