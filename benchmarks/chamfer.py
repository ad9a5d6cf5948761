"""Chamfer distance of large clouds on the CPU, forward and backward, beside SciPy's k-d tree and chunked cdist.

    python -m phys4d.benchmarks.chamfer [--quick] [--out DIR]

Clouds are uniform in a cube, or frames of the simulator: a depth map lifted to points, against the same map with the
errors of a depth head. Every peer is timed in the same run, in turn, with 1 thread and with 2. SciPy's tree is given
all cores in both cases, and one alone beside that. The load of the machine before and after stands in the result.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.benchmarks.timing import Work, interleaved
from phys4d.kernels.geometry import chamfer, unproject

THREADS = (1, 2)
SIZES = (100_000, 345_600)  # the bar, and all pixels of a 480 x 720 frame
COMPARED = 100_000  # points up to which all are compared with all
SLOW_ROUNDS = 2  # of that, which takes most of a minute
Partners = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def uniform(points: int) -> tuple[Tensor, Tensor]:
    """Two clouds [points, 3] in the unit cube."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(points, 3, generator=generator) for _ in range(2))
    return x, y


def surface(points: int) -> tuple[Tensor, Tensor]:
    """What a camera sees of a floor, a wall and three balls, 480 x 720, as a wrong and as the true cloud; no simulator.

    `points` pixels of it each. The errors are those of `simulated`.
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
    """A frame of a simulated clip, 480 x 720, as a predicted and as the true cloud, `points` pixels of it each."""
    from phys4d.simulation.clip import measure
    from phys4d.simulation.generate import SimulateConfig, sample_scene
    from phys4d.simulation.rendering.raster import Rasteriser

    height, width = 480, 720
    config = SimulateConfig(families=("collision",), size=(height, width), frames=9)
    found = sample_scene(config, 0)
    camera = found.scene.view.camera(config.frames, height, width, config.fps)
    truth = measure(found.meshes, camera, Rasteriser(height, width))
    depth = torch.from_numpy(truth.depth[4]).float()[None, None]
    return _seen(depth, torch.from_numpy(camera.intrinsics[4]).float(), points)


def _seen(depth: Tensor, intrinsics: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """A depth map [1, 1, H, W] with the errors of a depth head, and without, lifted; some pixels of it, in order."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.randn(1, 1, 15, 23, generator=generator), depth.shape[-2:], mode="bilinear")
    wrong = depth * (1 + 0.03 * coarse + 0.002 * torch.randn(depth.shape, generator=generator))
    clouds = [unproject(d, intrinsics[None, None]).reshape(-1, 3)[depth.flatten() > 0] for d in (wrong, depth)]
    kept = torch.randperm(len(clouds[0]), generator=generator)[:points].sort().values
    return clouds[0][kept], clouds[1][kept]


def by_partners(find: Partners, x: Tensor, y: Tensor) -> Tensor:
    """Chamfer distance with torch's own gradients, given who finds the partners."""
    with torch.no_grad():
        there, back = find(x, y)
    to_y, to_x = x - y.index_select(0, there), y - x.index_select(0, back)
    return to_y.norm(dim=1).mean() + to_x.norm(dim=1).mean()


def tree(workers: int) -> Partners:
    """Partners by scipy's cKDTree, with so many threads; -1: all cores."""
    from scipy.spatial import cKDTree

    def find(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        clouds = x.numpy(), y.numpy()
        trees = [cKDTree(cloud) for cloud in clouds]
        there, back = (trees[1 - i].query(clouds[i], workers=workers)[1] for i in range(2))
        return torch.from_numpy(there), torch.from_numpy(back)

    return find


def chunks(x: Tensor, y: Tensor, rows: int = 512) -> tuple[Tensor, Tensor]:
    """Partners by torch.cdist, so many rows at a time."""
    there = []
    least, back = y.new_full((len(y),), torch.inf), torch.zeros(len(y), dtype=torch.int64, device=y.device)
    for number, part in enumerate(x.split(rows)):
        distances = torch.cdist(part, y)
        there.append(distances.argmin(dim=1))
        lowest = distances.min(dim=0)
        nearer = lowest.values < least
        least = torch.where(nearer, lowest.values, least)
        back = torch.where(nearer, lowest.indices + number * rows, back)
    return torch.cat(there), back


def measure(name: str, x: Tensor, y: Tensor, *, rounds: int) -> list[dict[str, Any]]:
    """One row per peer and number of threads: milliseconds of forward and backward together, and of ours apart."""
    finders: dict[str, Partners] = {"cKDTree, all cores": tree(-1), "cKDTree, one core": tree(1)}
    if len(x) <= COMPARED:
        finders["chunked cdist"] = chunks
    truth = float(by_partners(tree(-1), x.double(), y.double()))
    values: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": lambda a, b: chamfer(a[None], b[None])[0]}
    for peer, find in finders.items():
        values[peer] = lambda a, b, find=find: by_partners(find, a, b)  # type: ignore[misc]
    works: dict[str, Work] = {peer: _both(value, x, y) for peer, value in values.items()}
    works["ours, forward alone"] = lambda: chamfer(x[None], y[None])
    threads = torch.get_num_threads()
    errors = {peer: abs(float(value(x, y)) - truth) / truth for peer, value in values.items()}
    rows = []
    try:
        for number in THREADS:
            torch.set_num_threads(number)
            before = os.getloadavg()[0]
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
    finally:
        torch.set_num_threads(threads)
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


def main() -> None:
    """Measures, prints a table per case as it is done, and writes chamfer.json and chamfer.md below --out."""
    from phys4d.engine.telemetry import provenance

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="2,000 points and three rounds: whether it runs at all")
    parser.add_argument("--out", type=Path, help="folder for chamfer.json and chamfer.md")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for points in (2000,) if given.quick else SIZES:
        for name, make in (("uniform", uniform), ("simulated", simulated)):
            found = measure(name, *make(points), rounds=3 if given.quick or points > COMPARED else 7)
            print(table(found), flush=True)
            rows += found
            if given.out is not None:  # after every case: an interrupted run keeps what it has
                given.out.mkdir(parents=True, exist_ok=True)
                result = {"kind": "chamfer", "device": "cpu", "rows": rows, "provenance": provenance()}
                (given.out / "chamfer.json").write_text(json.dumps(result, indent=1) + "\n")
                (given.out / "chamfer.md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
