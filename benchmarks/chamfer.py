"""Chamfer distance of large clouds on the CPU, forward and backward, beside SciPy's k-d tree and chunked cdist.

    python -m phys4d.benchmarks.chamfer [--quick] [--out DIR]

Clouds are uniform in a cube, or frames of the simulator: a depth map lifted to points, and the same map with the errors
of a depth head. Every peer is timed in the same run, in turn, with 1 thread and with 2. SciPy's tree is timed with all
cores and with one. The result holds the machine's load before and after.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.benchmarks import results
from phys4d.benchmarks.cpu_suite import over_threads
from phys4d.benchmarks.timing import Work, interleaved
from phys4d.engine.run_folder.provenance import provenance
from phys4d.kernels.geometry import chamfer, unproject

THREADS = (1, 2)
SIZES = (100_000, 345_600)  # the size of the design's target, and all pixels of a 480 x 720 frame
COMPARED = 100_000  # the largest cloud for which exhaustive peers are timed
SLOW_ROUNDS = 2  # of exhaustive peers, which take most of a minute
Neighbours = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def uniform(points: int) -> tuple[Tensor, Tensor]:
    """Two clouds [points, 3] in the unit cube."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(points, 3, generator=generator) for _ in range(2))
    return x, y


def surface(points: int) -> tuple[Tensor, Tensor]:
    """A floor, a wall and three balls seen by a camera of 480 x 720 pixels, without the simulator.

    Returns two clouds [points, 3] in metres of the same random pixels: with the depth errors of `simulated`, and exact.
    """
    height, width, focal = 480, 720, 600.0
    v, u = torch.meshgrid(torch.arange(height) + 0.5 - height / 2, torch.arange(width) + 0.5 - width / 2, indexing="ij")
    rays = torch.stack((u / focal, v / focal, torch.ones_like(u)), -1)
    depth = torch.full((height, width), 6.0)  # the wall
    depth = torch.where(rays[..., 1] > 0, torch.minimum(depth, 1.2 / rays[..., 1].clamp_min(1e-6)), depth)
    for centre, radius in (((-1.0, 0.6, 3.0), 0.6), ((0.5, 0.8, 2.5), 0.4), ((1.5, 0.2, 4.5), 1.0)):
        middle = torch.tensor(centre)
        along, square = (rays * middle).sum(-1), rays.square().sum(-1)
        inside = along.square() - square * (middle.square().sum() - radius**2)
        nearer = (along - inside.clamp_min(0).sqrt()) / square
        depth = torch.where(inside > 0, torch.minimum(depth, nearer), depth)
    return _seen(depth[None, None], torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]), points)


def simulated(points: int) -> tuple[Tensor, Tensor]:
    """A frame of a simulated clip, 480 x 720: two clouds [points, 3] in metres, with depth errors and exact."""
    from phys4d.simulation.clip import measure
    from phys4d.simulation.generate import SimulateConfig, sample_scene

    height, width = 480, 720
    config = SimulateConfig(families=("collision",), size=(height, width), frames=9)
    found = sample_scene(config, 0)
    camera = found.scene.view.camera(config.frames, height, width, config.fps)
    truth = measure(found.meshes, camera)
    depth = torch.from_numpy(truth.depth[4]).float()[None, None]
    return _seen(depth, torch.from_numpy(camera.intrinsics[4]).float(), points)


def _seen(depth: Tensor, intrinsics: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Lifts a depth map [1, 1, H, W] to points, with the errors of a depth head and without; keeps random pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.randn(1, 1, 15, 23, generator=generator), depth.shape[-2:], mode="bilinear")
    wrong = depth * (1 + 0.03 * coarse + 0.002 * torch.randn(depth.shape, generator=generator))
    clouds = [unproject(d, intrinsics[None, None]).reshape(-1, 3)[depth.flatten() > 0] for d in (wrong, depth)]
    kept = torch.randperm(len(clouds[0]), generator=generator)[:points].sort().values
    return clouds[0][kept], clouds[1][kept]


def by_neighbours(find: Neighbours, x: Tensor, y: Tensor) -> Tensor:
    """Chamfer distance with torch's gradients; `find` returns the index of every point's nearest neighbour."""
    with torch.no_grad():
        nearest_in_y, nearest_in_x = find(x, y)
    to_y, to_x = x - y.index_select(0, nearest_in_y), y - x.index_select(0, nearest_in_x)
    return to_y.norm(dim=1).mean() + to_x.norm(dim=1).mean()


def tree(workers: int) -> Neighbours:
    """Nearest neighbours by scipy's cKDTree with `workers` threads; -1: all cores."""

    def find(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        from scipy.spatial import cKDTree

        clouds = x.numpy(), y.numpy()
        trees = [cKDTree(cloud) for cloud in clouds]
        nearest_in_y, nearest_in_x = (trees[1 - i].query(clouds[i], workers=workers)[1] for i in range(2))
        return torch.from_numpy(nearest_in_y), torch.from_numpy(nearest_in_x)

    return find


def chunks(x: Tensor, y: Tensor, rows: int = 512) -> tuple[Tensor, Tensor]:
    """Nearest neighbours by torch.cdist, `rows` points of x at a time."""
    nearest_in_y = []
    least = y.new_full((len(y),), torch.inf)
    nearest_in_x = torch.zeros(len(y), dtype=torch.int64, device=y.device)
    for number, part in enumerate(x.split(rows)):
        distances = torch.cdist(part, y)
        nearest_in_y.append(distances.argmin(dim=1))
        lowest = distances.min(dim=0)
        nearer = lowest.values < least
        least = torch.where(nearer, lowest.values, least)
        nearest_in_x = torch.where(nearer, lowest.indices + number * rows, nearest_in_x)
    return torch.cat(nearest_in_y), nearest_in_x


def measure(name: str, x: Tensor, y: Tensor, *, rounds: int) -> list[dict[str, Any]]:
    """One row per peer and number of threads: milliseconds of forward + backward; for ours also of forward only."""
    finders: dict[str, Neighbours] = {"cKDTree, all cores": tree(-1), "cKDTree, one core": tree(1)}
    if len(x) <= COMPARED:
        finders["chunked cdist"] = chunks
    truth = float(by_neighbours(tree(-1), x.double(), y.double()))
    values: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": lambda a, b: chamfer(a[None], b[None])[0]}
    for peer, find in finders.items():
        values[peer] = lambda a, b, find=find: by_neighbours(find, a, b)  # type: ignore[misc]
    works: dict[str, Work] = {peer: _both(value, x, y) for peer, value in values.items()}
    works["ours, forward alone"] = lambda: chamfer(x[None], y[None])
    errors = {peer: abs(float(value(x, y)) - truth) / truth for peer, value in values.items()}
    rows = []
    for number, before in over_threads(THREADS):
        quick = {peer: work for peer, work in works.items() if peer != "chunked cdist"}
        timings = interleaved(quick, x.device, rounds=rounds, seconds=60.0, warm_up=1)
        slow = {peer: work for peer, work in works.items() if peer not in quick}
        timings |= interleaved(slow, x.device, rounds=SLOW_ROUNDS, seconds=60.0, warm_up=0)
        for peer, timing in timings.items():
            rows.append({
                "case": name, "points": len(x), "threads": number, "backend": peer, "ms": timing.median,
                "ms_p20": timing.p20, "ms_p80": timing.p80, "times_ours": timing.median / timings["ours"].median,
                "error": errors[peer.removesuffix(", forward alone")],
                "load_before": before, "load_after": os.getloadavg()[0],
            })  # fmt: skip
    return rows


def _both(value: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Work:
    leaves = [cloud.clone().requires_grad_() for cloud in (x, y)]
    return lambda: torch.autograd.grad(value(*leaves), leaves)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as markdown."""
    lines = [
        "| clouds | points | threads | backend | ms (p20, p80) | times ours | error | load |",
        "|---" * 8 + "|",
    ]  # fmt: skip
    for row in rows:
        spread = f"{row['ms']:.1f} ({row['ms_p20']:.1f}, {row['ms_p80']:.1f})"
        load = f"{row['load_before']:.1f} to {row['load_after']:.1f}"
        lines.append(
            f"| {row['case']} | {row['points']} | {row['threads']} | {row['backend']} | {spread} | "
            f"{row['times_ours']:.1f} | {row['error']:.0e} | {load} |"
        )
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page: per pair of clouds and number of threads ours and every peer."""
    rows = result["rows"]
    peers = list(dict.fromkeys(row["backend"] for row in rows if not row["backend"].startswith("ours")))
    lines = ["| clouds | points | threads | ours ms | " + " | ".join(peers) + " |", "|---" * (4 + len(peers)) + "|"]
    cells: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["case"], row["points"], row["threads"]), {})[row["backend"]] = row
    for (case, points, threads), found in cells.items():
        others = [f"{found[p]['ms']:,.0f}, {found[p]['times_ours']:,.1f} x" if p in found else "" for p in peers]
        cell = " | ".join([f"{found['ours']['ms']:.1f}", *others])
        lines.append(f"| {case} | {points:,} | {threads} | {cell} |")
    loads = [row[when] for row in rows for when in ("load_before", "load_after")]
    origin = results.origin(result["provenance"])
    return "\n".join([*lines, "", f"Load {min(loads):.1f} to {max(loads):.1f}; {origin}."])


def main() -> None:
    """Measures, prints a table after every case, and with --out writes chamfer.json and chamfer.md there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="2,000 points, 3 rounds: checks that the benchmark runs")
    parser.add_argument("--out", type=Path, help="folder for chamfer.json and chamfer.md")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for points in (2000,) if options.quick else SIZES:
        for name, make in (("uniform", uniform), ("simulated", simulated)):
            found = measure(name, *make(points), rounds=3 if options.quick or points > COMPARED else 7)
            print(table(found), flush=True)
            rows += found
            if options.out is not None:  # after every case: an interrupted run keeps its finished cases
                result = {"kind": "chamfer", "device": "cpu", "rows": rows, "provenance": provenance()}
                results.write(options.out / "chamfer.json", result)
                (options.out / "chamfer.md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
