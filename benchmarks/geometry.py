"""4D-geometry operators in float32, beside plain torch and the installed libraries, in one run.

    phys4d bench geometry [--device cpu|cuda] [--quick] [--case NAME ...] [--backend NAME ...] [--out DIR]

Rows hold forward and backward separately: median, 20th and 80th percentile in milliseconds, peak memory, the largest
error of value and gradients against float64 (relative to the largest element of each), and whether two backward runs
are bit-equal. The floor is the time to read and write every tensor once; for an exhaustive nearest-neighbour search it
is the time of its instructions, and a tree search, which compares fewer pairs, has no floor.
"""

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from phys4d.benchmarks import chamfer, losses, warping
from phys4d.benchmarks.cases import GEOMETRY, GeometryCase
from phys4d.benchmarks.comparison import SUSTAINED, Effort, Needed, Runner, compare
from phys4d.benchmarks.timing import Prepared, Work, compiled, on_gpu
from phys4d.kernels.geometry import chamfer as ours
from phys4d.kernels.geometry import flow_warp, splat

DTYPE = torch.float32
Part = Literal["forward", "backward"]
Loss = Callable[[], Tensor]
Rivals = tuple[dict[str, Loss], list[Tensor]]  # calls by name, and the tensors of which gradients are taken
# Instructions per second of all float32 lanes of a GPU, without FMA: 132 SMs of 128 lanes at 1.98 GHz.
ISSUED = {"H200": 33.5e12, "H100": 33.5e12}
PAIR = 10  # instructions per pair of points, for both directions: 3 subtract, 3 multiply, 2 add, 2 compare
# Bytes per pixel, forward and backward: 4 for a float32 number, 1 for a mask, 8 for an index.
_BYTES = {
    "warp": (5 * 4 + 1, 5 * 4 + 1 + 4 * 4), "depth": (3 * 4 + 1, 3 * 4 + 1 + 4), "flow": (5 * 4 + 1, 5 * 4 + 1 + 2 * 4),
    "flow laplace": (7 * 4 + 1, 7 * 4 + 1 + 4 * 4), "scene flow": (9 * 4 + 1, 9 * 4 + 1 + 4 * 4),
    "flow_warp": (8 * 4 + 1, 13 * 4), "splat": (10 * 4 + 8, 8 * 4 + 8),
}  # fmt: skip


def rivals(case: GeometryCase, device: torch.device, dtype: torch.dtype = DTYPE) -> Rivals:
    """The implementations of the case, "ours" first, each a call without arguments, and their leaves."""
    if case.op == "chamfer":
        return _clouds(case, device, dtype)
    if case.op in ("flow_warp", "splat"):
        found, leaves = _warps(case, device, dtype)
    else:
        found, leaves = losses.rivals(case.op, made_on(case, device, dtype))
    if on_gpu(device):
        found |= {f"{name}, compiled": compiled(loss) for name, loss in found.items() if name != "ours"}
    return found, leaves


def made_on(case: GeometryCase, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """`losses.inputs` on the device; flow losses get motion without dz, which would cost time and is not used."""
    made = {
        name: tensor.detach().to(device, None if tensor.dtype == torch.bool else dtype)
        for name, tensor in losses.inputs(case.shape).items()
    }
    if case.op.startswith("flow"):
        made |= {name: made[name][:, :2].contiguous() for name in ("motion", "truth")}
    for name in ("depth", "motion", "confidence"):
        made[name].requires_grad_()
    return made


def _warps(case: GeometryCase, device: torch.device, dtype: torch.dtype) -> Rivals:
    made = {name: tensor.to(device) for name, tensor in warping.inputs(case.shape, dtype).items()}
    frames, flow, depth = made["frames"].requires_grad_(), made["flow"], made["depth"]
    if case.op == "splat":
        return {
            "ours": lambda: splat(frames, flow, depth).values,
            "eager": lambda: splat(frames, flow, depth, backend="reference").values,
        }, [frames]
    flow.requires_grad_()
    return {
        "ours": lambda: flow_warp(frames, flow)[0],
        "eager": lambda: flow_warp(frames, flow, backend="reference")[0],
        "grid_sample": lambda: warping.grid_sample(frames, flow),
    }, [frames, flow]


def _clouds(case: GeometryCase, device: torch.device, dtype: torch.dtype) -> Rivals:
    make = {"uniform": chamfer.uniform, "surface": chamfer.surface}[case.kind]
    x, y = (cloud.to(device, dtype).requires_grad_() for cloud in make(case.shape[0]))
    found: dict[str, Loss] = {"ours": lambda: ours(x[None], y[None])[0]}
    finders: dict[str, chamfer.Neighbours] = {}
    if case.shape[0] <= chamfer.COMPARED:
        finders["chunked cdist"] = chamfer.chunks
    if on_gpu(device):
        for search in ("exhaustive", "tree"):
            found[f"ours, {search}"] = lambda search=search: ours(x[None], y[None], backend="triton", search=search)[0]  # type: ignore[misc]
        if importlib.util.find_spec("pytorch3d"):
            finders["pytorch3d"] = _pytorch3d
        if importlib.util.find_spec("kaolin"):
            finders["kaolin"] = _kaolin
    else:
        finders["cKDTree"] = chamfer.tree(-1)
    for name, find in finders.items():
        found[name] = lambda find=find: chamfer.by_neighbours(find, x, y)  # type: ignore[misc]
    return found, [x, y]


def _pytorch3d(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    knn = importlib.import_module("pytorch3d.ops").knn_points
    return knn(x[None], y[None], K=1).idx[0, :, 0], knn(y[None], x[None], K=1).idx[0, :, 0]


def _kaolin(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sided = importlib.import_module("kaolin.metrics.pointcloud").sided_distance
    return sided(x[None], y[None])[1][0], sided(y[None], x[None])[1][0]


def touched(case: GeometryCase, part: Part) -> int:
    """Bytes of all tensors of a part, each once, in float32: inputs and results, backward also gradients."""
    if case.op == "chamfer":  # the indices of the nearest points are kept for the backward pass
        cloud, index = 2 * case.shape[0] * 3 * 4, 2 * case.shape[0] * 8
        return cloud + index if part == "forward" else 2 * cloud + index
    a_pixel = _BYTES.get(case.op) or _BYTES[case.op.split()[0]]
    return math.prod(case.shape) * a_pixel[part == "backward"]


def floor_ms(case: GeometryCase, part: Part, rival: str, gpu: str) -> float | None:
    """Milliseconds of `touched`, or of an exhaustive search; None on a GPU whose rates are not known."""
    known = next((name for name in SUSTAINED if name in gpu), None)
    if known is None:
        return None
    by_bytes = touched(case, part) / SUSTAINED[known][1] / 1e9
    if case.op != "chamfer" or part == "backward":
        return by_bytes
    everything = rival in ("ours, exhaustive", "chunked cdist", "pytorch3d", "kaolin")
    return PAIR * case.shape[0] ** 2 / ISSUED[known] * 1e3 if everything else None


def measure(case: GeometryCase, device: torch.device, effort: Effort) -> list[dict[str, Any]]:
    """One row per rival and part, as for attention; a rival that fails has a row with the reason."""
    found, leaves = rivals(case, device)
    truth = _truth(case, device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""

    def runner(loss: Loss) -> Runner:
        forward, backward = torch.no_grad()(loss), Prepared(loss, lambda value: backward_of(value, leaves)())

        def verdict() -> tuple[float, bool]:
            value = loss()
            first, second = backward(), backward()
            error = max(_error(a, b) for a, b in zip((value.detach(), *first), truth, strict=True))
            return error, all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

        return Runner({"forward": forward, "backward": backward}, verdict)

    def needed(part: Any, name: str) -> Needed:
        return Needed(bytes=touched(case, part), floor_ms=floor_ms(case, part, name, gpu))

    makers = {name: partial(runner, loss) for name, loss in found.items()}
    return compare(case.name, makers, device, effort=effort, needed=needed)


def _truth(case: GeometryCase, device: torch.device) -> list[Tensor]:
    """Value and gradients in float64 by the definition; for clouds by exhaustive search."""
    found, leaves = rivals(case, device, torch.float64)
    exact = next((name for name in ("eager", "chunked cdist") if name in found), "ours")
    value = found[exact]()
    return [value.detach(), *backward_of(value, leaves)()]


def backward_of(value: Tensor, leaves: list[Tensor]) -> Work:
    """Gradients of a loss, or of a tensor whose own gradient rises from 0 to 1 along the last axis."""
    given = None
    if value.ndim:
        given = torch.linspace(0, 1, value.shape[-1], dtype=value.dtype, device=value.device).expand_as(value).clone()
    return lambda: torch.autograd.grad(value, leaves, given, retain_graph=True)


def _error(found: Tensor, truth: Tensor) -> float:
    most = truth.abs().amax()
    return float((found.double() - truth).abs().amax() / torch.where(most > 0, most, 1))


def cases(names: list[str] | None, device: torch.device) -> list[GeometryCase]:
    """The named cases, all if none is named; small ones where there is no GPU."""
    chosen = [case for case in GEOMETRY if names is None or case.name in names]
    return chosen if device.type == "cuda" else [small(case) for case in chosen]


def small(case: GeometryCase) -> GeometryCase:
    """The case on a short clip of small frames, or on 2,000 points."""
    shape = (2000,) if case.op == "chamfer" else (1, 5, 96, 144)
    return dataclasses.replace(case, name=f"{case.name}-small", shape=shape)
