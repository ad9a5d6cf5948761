"""4D-geometry losses on a CPU, forward and backward, beside eager torch, with 1 and 2 threads.

    python -m phys4d.benchmarks.losses [--quick] [--out DIR]

Every rival of a case is timed once per round, in turn. Memory is the growth of a fresh process's peak resident set
during one forward and backward, after the inputs exist and torch has run a tiny case; it counts all allocations of
torch and of our kernels, by the pages that are written. The result holds the machine's load before and after: other
processes slow all rivals down, but not equally.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.benchmarks import cpu_suite, results
from phys4d.benchmarks.cpu_suite import growth
from phys4d.benchmarks.timing import interleaved
from phys4d.kernels.geometry import depth_loss, depth_losses, flow_loss, scene_flow_loss, warp_consistency

SHAPE = (1, 49, 256, 256)
Loss = Callable[[], Tensor]
PEERS = ("eager", "grid_sample")  # rivals that, like ours, ignore missing surfaces and masked NaN
_SCALARS: dict[str, Any] = {f"depth {kind}": kind for kind in ("log_l1", "silog", "scale_shift", "gradient")}
CASES = ("warp", *_SCALARS, "depth all", "flow l1", "flow charbonnier", "flow epe", "flow laplace", "scene flow")


def inputs(shape: Sequence[int]) -> dict[str, Tensor]:
    """Smooth depth and motion with a mask and weights; written in place, so that no temporary raises the memory peak.

    depth, other: [B, T, H, W] metres; motion, truth: [B, 3, T-1, H, W]; valid, visible: bool; weight [B, T-1, H, W];
    confidence [B, 2, T-1, H, W]; intrinsics [B, T, 3, 3] pixels.
    """
    clips, frames, height, width = shape
    generator = torch.Generator().manual_seed(0)
    row, column = torch.linspace(0, 6, height)[:, None], torch.linspace(0, 7, width)
    made = {name: torch.empty(shape) for name in ("depth", "other")}
    made |= {name: torch.empty(clips, 3, frames - 1, height, width) for name in ("motion", "truth")}
    for number, tensor in enumerate(made.values()):
        for place, image in enumerate(tensor.view(-1, height, width)):
            image.copy_(torch.sin(row + 0.1 * place + number) * torch.cos(column - 0.2 * place))
    for name, scale, offset in (("depth", 0.5, 2.0), ("other", 0.6, 2.1), ("motion", 3.0, 0.0), ("truth", 3.2, 0.1)):
        made[name].mul_(scale).add_(offset)
    made["valid"] = torch.empty(shape, dtype=torch.bool).bernoulli_(0.9, generator=generator)
    made["visible"] = torch.empty(made["motion"][:, 0].shape, dtype=torch.bool).bernoulli_(0.9, generator=generator)
    made["weight"] = torch.empty(made["visible"].shape).uniform_(generator=generator)
    made["depth_weight"] = torch.empty(shape).uniform_(generator=generator)
    made["confidence"] = torch.empty(clips, 2, frames - 1, height, width).normal_(generator=generator)
    camera = torch.tensor([[1.2 * width, 0, width / 2], [0, 1.2 * width, height / 2], [0, 0, 1]])
    made["intrinsics"] = camera.repeat(clips, frames, 1, 1)
    for name in ("depth", "motion", "confidence"):
        made[name].requires_grad_()
    return made


def grid_sample_warp(depth: Tensor, motion: Tensor, visible: Tensor, weight: Tensor) -> Tensor:
    """Warp consistency, L1, by F.grid_sample; ignores missing surfaces and masked NaN, as our kernel does."""
    motion = torch.where(visible.unsqueeze(1), motion, 0)
    surface = depth > 0
    inverse = torch.where(surface, 1 / torch.where(surface, depth, 1), 0)
    column, row, grid = _landing(motion)
    both = torch.stack((inverse[:, 1:], surface[:, 1:].to(depth.dtype)), 2).flatten(0, 1)
    taken = F.grid_sample(both, grid, padding_mode="border", align_corners=True).unflatten(0, column.shape[:2])
    used = visible & _inside(column, row) & (taken[:, :, 1] > 1 - 1e-5)
    sampled = 1 / torch.where(used, taken[:, :, 0], 1)
    return _masked_mean(torch.where(used, sampled - (depth[:, :-1] + motion[:, 2]), 0).abs(), used, weight)


def bare_grid_sample_warp(depth: Tensor, motion: Tensor, visible: Tensor, weight: Tensor) -> Tensor:
    """The same without handling of missing surfaces and NaN: the shortest version."""
    column, row, grid = _landing(motion)
    inverse = (1 / depth[:, 1:]).flatten(0, 1).unsqueeze(1)
    sampled = 1 / F.grid_sample(inverse, grid, padding_mode="border", align_corners=True).view_as(column)
    used = visible & _inside(column, row)
    return _masked_mean(torch.where(used, sampled - (depth[:, :-1] + motion[:, 2]), 0).abs(), used, weight)


def _masked_mean(values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Mean over clips of each clip's weighted mean over `mask`; 0 for a clip without weight."""
    factor = torch.where(mask, weight, 0)
    total = factor.flatten(1).sum(1)
    kept = (torch.where(mask, values, 0) * factor).flatten(1).sum(1)
    return (kept / torch.where(total > 0, total, 1)).mean()


def _landing(motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column and row [B, T-1, H, W] where pixels land, and both in the normalised form of F.grid_sample."""
    height, width = motion.shape[-2:]
    along, down = (torch.arange(size, dtype=motion.dtype, device=motion.device) for size in (width, height))
    column, row = along + motion[:, 0], down[:, None] + motion[:, 1]
    grid = torch.stack((column * (2 / (width - 1)) - 1, row * (2 / (height - 1)) - 1), -1)
    return column, row, grid.flatten(0, 1)


def _inside(column: Tensor, row: Tensor) -> Tensor:
    height, width = column.shape[-2:]
    return (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)


def rivals(case: str, made: dict[str, Tensor]) -> tuple[dict[str, Loss], list[Tensor]]:
    """The losses of a case by rival, "ours" first, and the tensors that require gradients."""
    asked: dict[str, Any]
    depth, motion, valid, visible = (made[name] for name in ("depth", "motion", "valid", "visible"))
    if case == "warp":
        arguments = depth, motion, visible
        weight = made["weight"]
        return {
            "ours": lambda: warp_consistency(*arguments, weight=weight),
            "eager": lambda: warp_consistency(*arguments, weight=weight, backend="reference"),
            "grid_sample": lambda: grid_sample_warp(*arguments, weight),
            "bare grid_sample": lambda: bare_grid_sample_warp(*arguments, weight),
        }, [depth, motion]
    if case.startswith("depth"):
        pair = depth, made["other"], valid
        asked = {"weight": made["depth_weight"]}
        if case == "depth all":
            return {
                "ours": lambda: torch.stack(depth_losses(*pair, **asked)).sum(),
                "eager": lambda: torch.stack(depth_losses(*pair, **asked, backend="reference")).sum(),
            }, [depth]
        asked["kind"] = _SCALARS[case]
        return {
            "ours": lambda: depth_loss(*pair, **asked),
            "eager": lambda: depth_loss(*pair, **asked, backend="reference"),
        }, [depth]
    asked = {"weight": made["weight"]}
    if case == "scene flow":
        both = depth, motion, made["other"], made["truth"], visible, made["intrinsics"]
        return {
            "ours": lambda: scene_flow_loss(*both, **asked),
            "eager": lambda: scene_flow_loss(*both, **asked, backend="reference"),
        }, [depth, motion]
    fields = motion[:, :2], made["truth"][:, :2], visible
    asked["kind"] = case.removeprefix("flow ")
    leaves = [motion]
    if case == "flow laplace":
        asked["confidence"] = made["confidence"]
        leaves.append(made["confidence"])
    return {
        "ours": lambda: flow_loss(*fields, **asked),
        "eager": lambda: flow_loss(*fields, **asked, backend="reference"),
    }, leaves


def both_ways(loss: Loss, leaves: list[Tensor]) -> Callable[[], Any]:
    """One forward and backward."""
    return lambda: torch.autograd.grad(loss(), leaves)


def grown(case: str, rival: str, shape: Sequence[int]) -> float:
    """MiB by which the peak resident set of this fresh process grows during one forward and backward."""
    tiny = rivals(case, inputs((1, 3, 16, 16)))
    both_ways(tiny[0][rival], tiny[1])()
    losses, leaves = rivals(case, inputs(shape))
    return growth(both_ways(losses[rival], leaves))


def measure(case: str, shape: Sequence[int], *, rounds: int, threads: Sequence[int]) -> list[dict[str, Any]]:
    """One row per rival and number of threads: milliseconds forward and both ways, MiB, and the error of the value."""
    losses, leaves = rivals(case, inputs(shape))
    values = {name: float(loss().detach()) for name, loss in losses.items()}
    memory = {name: cpu_suite.memory("losses", case, name, shape) for name in losses}
    rows = []
    for number, load in cpu_suite.over_threads(threads):
        forward = interleaved(
            {n: torch.no_grad()(loss) for n, loss in losses.items()}, torch.device("cpu"), rounds=rounds, seconds=60
        )
        works = {name: both_ways(loss, leaves) for name, loss in losses.items()}
        both = interleaved(works, torch.device("cpu"), rounds=rounds, seconds=60)
        for name in losses:
            rows.append({
                "case": case, "shape": list(shape), "backend": name, "threads": number,
                "forward_ms": forward[name].median, "ms": both[name].median, "ms_p20": both[name].p20,
                "ms_p80": both[name].p80, "peak_mb": memory[name], "value": values[name], "load": load,
            })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: all rows, and how many times the time and the memory of ours the best of `PEERS` needs."""
    lines = [
        "| case | threads | backend | forward ms | both ms (p20, p80) | peak MiB | best peer / ours |", "|---" * 7 + "|"
    ]  # fmt: skip
    for row in rows:
        ratio = ""
        if row["backend"] == "ours":
            peers = [r for r in cpu_suite.alongside(rows, row) if r["backend"] in PEERS]
            time, memory = (min(r[key] for r in peers) / max(row[key], 1e-3) for key in ("ms", "peak_mb"))  # fmt: skip
            ratio = f"{time:.1f} in time, {memory:.1f} in memory"
        times = f"{row['ms']:.1f} ({row['ms_p20']:.1f}, {row['ms_p80']:.1f})"
        lines.append(
            f"| {row['case']} | {row['threads']} | {row['backend']} | {row['forward_ms']:.1f} | {times} | "
            f"{row['peak_mb']:.0f} | {ratio} |"
        )
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page: per case and number of threads ours and the best of `PEERS`."""
    lines = ["| case | threads | ours ms | best peer ms | times | MiB | best peer's MiB |", "|---" * 7 + "|"]
    for row in (row for row in result["rows"] if row["backend"] == "ours"):
        peers = [peer for peer in cpu_suite.alongside(result["rows"], row) if peer["backend"] in PEERS]
        time, memory = (min(peer[key] for peer in peers) for key in ("ms", "peak_mb"))
        lines.append(
            f"| {row['case']} | {row['threads']} | {row['ms']:.1f} | {time:.1f} | {time / row['ms']:.1f} | "
            f"{row['peak_mb']:.0f} | {memory:.0f} |"
        )
    return "\n".join([*lines, "", clips(result)])


def clips(result: dict[str, Any]) -> str:
    """The line below a table of clips: their shape, load, machine and versions."""
    shape = " x ".join(map(str, result["rows"][0]["shape"]))
    return f"Clips of {shape}, {results.load_during(result)}; {results.origin(result['provenance'])}."


if __name__ == "__main__":
    cpu_suite.run("losses", globals())
