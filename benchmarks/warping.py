"""Warps of videos on a CPU, forward and backward, beside what torch and OpenCV offer, with 1 and 2 threads.

    python -m phys4d.benchmarks.warping [--quick] [--out DIR]

Every rival of a case is timed once per round, in turn. The error is the mean absolute difference of the forward result
from float64: the mean, since a float32 point that lands beyond a pixel's border takes the value of another pixel.
Memory is the growth of a fresh process's peak resident set during one forward and backward, as in `losses`. `cv2.remap`
has no backward, and its fast path rounds coordinates to 1/32 pixel.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.benchmarks import cpu_suite
from phys4d.benchmarks.cpu_suite import growth
from phys4d.benchmarks.losses import both_ways, clips
from phys4d.benchmarks.timing import interleaved
from phys4d.kernels.geometry import Splat, flow_warp, lift_4d, occlusion_mask, splat

SHAPE = (1, 13, 256, 256)
CASES = ("flow_warp", "flow_warp of flow alone", "splat", "occlusion_mask", "lift_4d")
NO_BACKWARD = ("cv2.remap",)
Warp = Callable[[], Tensor]


def inputs(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Smooth colours, the depth of a slope with a box in front of it, and different motion of slope and box.

    frames [B, 3, T, H, W], flow [B, 2, T, H, W] px, depth [B, T, H, W] m, motion [B, 3, T-1, H, W], intrinsics.
    """
    clips, times, height, width = shape
    row, column = torch.linspace(0, 6, height)[:, None], torch.linspace(0, 7, width)
    frames = torch.stack([torch.sin(row + 0.1 * n) * torch.cos(column - 0.2 * n) for n in range(3 * times)])
    flow = torch.stack([3 * torch.sin(column + 0.3 * n) * torch.cos(row) for n in range(2 * times)])
    depth = (3 + 0.1 * row + 0 * column).repeat(times, 1, 1)
    box = slice(height // 4, height // 2), slice(width // 4, width // 2)
    depth[:, *box] = 2.0
    motion = flow.view(2, times, height, width)[:, : times - 1] * 0.3
    motion[:, :, *box] = 2.5
    motion = torch.cat((motion, torch.zeros_like(motion[:1])))
    focal = float(width)
    camera = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).repeat(times, 1, 1)
    made = {
        "frames": frames.view(3, times, height, width), "flow": flow.view(2, times, height, width), "depth": depth,
        "motion": motion, "intrinsics": camera,
    }  # fmt: skip
    return {name: t.expand(clips, *t.shape).to(dtype).contiguous() for name, t in made.items()}


def grid_sample(frames: Tensor, flow: Tensor) -> Tensor:
    """The same as `flow_warp` by F.grid_sample, [B, C, T, H, W]."""
    height, width = frames.shape[-2:]
    along, down = (torch.arange(size, dtype=flow.dtype, device=flow.device) for size in (width, height))
    u, v = along + flow[:, 0], down[:, None] + flow[:, 1]
    grid = torch.stack((u * (2 / (width - 1)) - 1, v * (2 / (height - 1)) - 1), -1).flatten(0, 1)
    taken = F.grid_sample(frames.transpose(1, 2).flatten(0, 1), grid, align_corners=True)
    return taken.unflatten(0, (len(frames), -1)).transpose(1, 2)


def remap(frames: Tensor, flow: Tensor) -> Tensor:
    """The same by cv2.remap, one frame at a time, with copies to and from its layout of channels last."""
    import cv2
    import numpy as np

    cv2.setNumThreads(torch.get_num_threads())
    clips, _, times, height, width = frames.shape
    pictures, moves = frames.detach().permute(0, 2, 3, 4, 1).contiguous().numpy(), flow.detach().numpy()
    row, column = np.mgrid[:height, :width].astype(np.float32)
    made = np.empty_like(pictures)
    for b in range(clips):
        for t in range(times):
            places = column + moves[b, 0, t], row + moves[b, 1, t]
            cv2.remap(pictures[b, t], *places, cv2.INTER_LINEAR, dst=made[b, t], borderMode=cv2.BORDER_CONSTANT)
    return torch.from_numpy(made).permute(0, 4, 1, 2, 3).contiguous()


def _all_of(seen: Splat) -> Tensor:
    return torch.cat((seen.values, seen.depth[:, None]), 1)


def rivals(case: str, made: dict[str, Tensor]) -> tuple[dict[str, Warp], list[Tensor]]:
    """The calls of a case by rival, "ours" first, and the tensors that require gradients."""
    wanted = {
        "flow_warp": ("frames", "flow"), "flow_warp of flow alone": ("flow",), "splat": ("frames", "depth"),
        "occlusion_mask": (), "lift_4d": ("depth", "motion"),
    }[case]  # fmt: skip
    made = {name: t.detach().requires_grad_(name in wanted) for name, t in made.items()}
    frames, flow, depth, motion, camera = made.values()
    leaves = [made[name] for name in wanted]
    if case.startswith("flow_warp"):
        return {
            "ours": lambda: flow_warp(frames, flow)[0],
            "eager": lambda: flow_warp(frames, flow, backend="reference")[0],
            "grid_sample": lambda: grid_sample(frames, flow),
            "cv2.remap": lambda: remap(frames, flow),
        }, leaves
    if case == "splat":
        return {
            "ours": lambda: _all_of(splat(frames, flow, depth)),
            "scatter_reduce": lambda: _all_of(splat(frames, flow, depth, backend="reference")),
        }, leaves
    if case == "occlusion_mask":
        return {
            "ours": lambda: occlusion_mask(depth, motion).visible,
            "scatter_reduce": lambda: occlusion_mask(depth, motion, backend="reference").visible,
        }, leaves
    return {
        "ours": lambda: lift_4d(depth, motion, camera).points,
        "eager": lambda: lift_4d(depth, motion, camera, backend="reference").points,
    }, leaves


def summed(warp: Warp) -> Warp:
    """The sum of the result with weights that rise along the width, so that its gradient differs between pixels."""

    def value() -> Tensor:
        found = warp()
        return (found * torch.linspace(0, 1, found.shape[-1], dtype=found.dtype, device=found.device)).sum()

    return value


def grown(case: str, rival: str, shape: Sequence[int]) -> float:
    """MiB by which the peak resident set of this fresh process grows during one forward and backward."""
    for sizes in ((1, 3, 16, 16), shape):
        warps, leaves = rivals(case, inputs(sizes))
        work = both_ways(summed(warps[rival]), leaves) if leaves and rival not in NO_BACKWARD else warps[rival]
        found = growth(work)
    return found


def measure(case: str, shape: Sequence[int], *, rounds: int, threads: Sequence[int]) -> list[dict[str, Any]]:
    """One row per rival and number of threads: milliseconds forward and both ways, MiB, error against float64."""
    warps, leaves = rivals(case, inputs(shape))
    exact = rivals(case, inputs(shape, torch.float64))[0]
    true = exact["eager" if "eager" in exact else "scatter_reduce"]().detach().double()
    error = {name: float((warp().detach().double() - true).abs().mean()) for name, warp in warps.items()}
    memory = {name: cpu_suite.memory("warping", case, name, shape) for name in warps}
    rows, device = [], torch.device("cpu")
    for number, load in cpu_suite.over_threads(threads):
        still = {n: torch.no_grad()(warp) for n, warp in warps.items()}
        forward = interleaved(still, device, rounds=rounds, seconds=60)
        works = {n: both_ways(summed(w), leaves) for n, w in warps.items() if leaves and n not in NO_BACKWARD}
        both = interleaved(works, device, rounds=rounds, seconds=60)
        for name in warps:
            timed = both.get(name)
            rows.append({
                "case": case, "shape": list(shape), "backend": name, "threads": number,
                "forward_ms": forward[name].median, "forward_p20": forward[name].p20,
                "forward_p80": forward[name].p80, "ms": timed and timed.median, "ms_p20": timed and timed.p20,
                "ms_p80": timed and timed.p80, "peak_mb": memory[name], "error": error[name], "load": load,
            })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: all rows, and the time of the fastest other rival divided by ours, forward and both ways."""
    titles = ("case", "threads", "backend", "forward ms (p20, p80)", "both ms (p20, p80)", "peak MiB", "error")
    lines = ["| " + " | ".join((*titles, "best peer / ours")) + " |", "|---" * 8 + "|"]
    for row in rows:
        ratio = []
        for key in ("forward_ms", "ms"):
            if row["backend"] == "ours" and row[key]:
                others = [r[key] for r in cpu_suite.alongside(rows, row) if r[key]]
                ratio.append(f"{min(others) / row[key]:.1f}")
        forward = f"{row['forward_ms']:.1f} ({row['forward_p20']:.1f}, {row['forward_p80']:.1f})"
        both = f"{row['ms']:.1f} ({row['ms_p20']:.1f}, {row['ms_p80']:.1f})" if row["ms"] else ""
        lines.append(
            f"| {row['case']} | {row['threads']} | {row['backend']} | {forward} | {both} | {row['peak_mb']:.0f} | "
            f"{row['error']:.1e} | {', '.join(ratio)} |"
        )
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page: per case and number of threads ours and the fastest peer, forward and both ways."""
    lines = [
        "| case | threads | ours: forward, both ms | fastest peer: forward, both ms | times | MiB | its MiB |",
        "|---" * 7 + "|",
    ]  # fmt: skip
    for row in (row for row in result["rows"] if row["backend"] == "ours"):
        peers = cpu_suite.alongside(result["rows"], row)
        keys = [key for key in ("forward_ms", "ms") if row[key]]
        best = {key: min((peer for peer in peers if peer[key]), key=lambda peer: peer[key]) for key in keys}
        own = ", ".join(f"{row[key]:.1f}" for key in keys)
        others = ", ".join(f"{best[key][key]:.1f}" for key in keys)
        names = ", ".join(dict.fromkeys(best[key]["backend"] for key in keys))
        times = ", ".join(f"{best[key][key] / row[key]:.1f}" for key in keys)
        lines.append(
            f"| {row['case']} | {row['threads']} | {own} | {others} ({names}) | {times} | {row['peak_mb']:.0f} | "
            f"{best[keys[-1]]['peak_mb']:.0f} |"
        )
    return "\n".join([*lines, "", clips(result)])


if __name__ == "__main__":
    cpu_suite.run("warping", globals())
