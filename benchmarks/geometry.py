"""4D-geometry operators in float32, beside what one would write in torch and the libraries that are here, in one run.

    phys4d bench geometry [--device cpu|cuda] [--quick] [--case NAME ...] [--backend NAME ...] [--out DIR]

Forward and backward apart, median and 20th and 80th percentile, peak memory, the largest error of value and gradients
against float64 (a gradient's in shares of its largest element), and whether two backward runs are bit-equal. The floor
is counted here: the bytes of the tensors that must pass once, or, for whoever compares all points with all, the
instructions of that. Who searches less than everything has none.
"""

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from phys4d.benchmarks import chamfer, losses, warping
from phys4d.benchmarks.attention import SUSTAINED
from phys4d.benchmarks.cases import GEOMETRY, GeometryCase
from phys4d.benchmarks.timing import Work, compiled, interleaved, peak_memory
from phys4d.kernels.geometry import chamfer as ours
from phys4d.kernels.geometry import flow_warp, splat

DTYPE = torch.float32
Part = Literal["forward", "backward"]
Loss = Callable[[], Tensor]
Rivals = tuple[dict[str, Loss], list[Tensor]]  # by name, and the leaves that they are differentiated in
# Instructions a second of all lanes of a card in float32, none of them fused: 132 SMs of 128 lanes at 1.98 GHz.
ISSUED = {"H200": 33.5e12, "H100": 33.5e12}
PAIR = 10  # instructions that a pair of points takes at least, once for both ways: 3 - 3 * 2 + and 2 of comparing
# Bytes a pixel that must pass forward and backward, in float32, a byte for a mask, eight for an index.
_BYTES = {
    "warp": (5 * 4 + 1, 5 * 4 + 1 + 4 * 4), "depth": (3 * 4 + 1, 3 * 4 + 1 + 4), "flow": (5 * 4 + 1, 5 * 4 + 1 + 2 * 4),
    "flow laplace": (7 * 4 + 1, 7 * 4 + 1 + 4 * 4), "scene flow": (9 * 4 + 1, 9 * 4 + 1 + 4 * 4),
    "flow_warp": (8 * 4 + 1, 13 * 4), "splat": (10 * 4 + 8, 8 * 4 + 8),
}  # fmt: skip


def rivals(case: GeometryCase, device: torch.device, dtype: torch.dtype = DTYPE) -> Rivals:
    """Who computes the case, "ours" first, each as a call without arguments."""
    if case.op == "chamfer":
        return _clouds(case, device, dtype)
    if case.op in ("flow_warp", "splat"):
        found, leaves = _warps(case, device, dtype)
    else:
        found, leaves = losses.rivals(case.op, made_on(case, device, dtype))
    if device.type == "cuda":
        found |= {f"{name}, compiled": compiled(loss) for name, loss in found.items() if name != "ours"}
    return found, leaves


def made_on(case: GeometryCase, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs of `losses.inputs`, moved; for losses of flow without dz, so that nobody pays for what they ignore."""
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
    finders: dict[str, chamfer.Partners] = {}
    if case.shape[0] <= chamfer.COMPARED:
        finders["chunked cdist"] = chamfer.chunks
    if device.type == "cuda":
        for search in ("exhaustive", "tree"):
            found[f"ours, {search}"] = lambda search=search: ours(x[None], y[None], backend="triton", search=search)[0]  # type: ignore[misc]
        if importlib.util.find_spec("pytorch3d"):
            finders["pytorch3d"] = _pytorch3d
        if importlib.util.find_spec("kaolin"):
            finders["kaolin"] = _kaolin
    else:
        finders["cKDTree"] = chamfer.tree(-1)
    for name, find in finders.items():
        found[name] = lambda find=find: chamfer.by_partners(find, x, y)  # type: ignore[misc]
    return found, [x, y]


def _pytorch3d(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    knn = importlib.import_module("pytorch3d.ops").knn_points
    return knn(x[None], y[None], K=1).idx[0, :, 0], knn(y[None], x[None], K=1).idx[0, :, 0]


def _kaolin(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sided = importlib.import_module("kaolin.metrics.pointcloud").sided_distance
    return sided(x[None], y[None])[1][0], sided(y[None], x[None])[1][0]


def touched(case: GeometryCase, part: Part) -> int:
    """Bytes that must pass once in float32: inputs, and backward the gradients, as large as what they belong to."""
    if case.op == "chamfer":  # who is nearest is kept for backward
        cloud, index = 2 * case.shape[0] * 3 * 4, 2 * case.shape[0] * 8
        return cloud + index if part == "forward" else 2 * cloud + index
    a_pixel = _BYTES.get(case.op) or _BYTES[case.op.split()[0]]
    return math.prod(case.shape) * a_pixel[part == "backward"]


def floor_ms(case: GeometryCase, part: Part, rival: str, gpu: str) -> float | None:
    """Milliseconds of `touched`, or of comparing all with all; None on a card whose rates are not known."""
    known = next((name for name in SUSTAINED if name in gpu), None)
    if known is None:
        return None
    by_bytes = touched(case, part) / SUSTAINED[known][1] / 1e9
    if case.op != "chamfer" or part == "backward":
        return by_bytes
    everything = rival in ("ours, exhaustive", "chunked cdist", "pytorch3d", "kaolin")
    return PAIR * case.shape[0] ** 2 / ISSUED[known] * 1e3 if everything else None


def measure(
    case: GeometryCase, device: torch.device, *, quick: bool, wanted: list[str] | None
) -> list[dict[str, Any]]:
    """One row per rival and part, as for attention; one that fails has a row with the reason."""
    found, leaves = rivals(case, device)
    truth = _truth(case, device)
    rows: list[dict[str, Any]] = []
    works: dict[Part, dict[str, Work]] = {"forward": {}, "backward": {}}
    told: dict[str, dict[str, Any]] = {}
    for name, loss in found.items():
        if wanted is not None and name not in wanted:
            continue
        try:
            value = loss()
            backward = backward_of(value, leaves)
            first, second = backward(), backward()
        except Exception as fault:  # a rival may fail in ways of its own; the row says how
            rows.append({"case": case.name, "backend": name, "refused": f"{type(fault).__name__}: {str(fault)[:200]}"})
            continue
        error = max(_error(a, b) for a, b in zip((value.detach(), *first), truth, strict=True))
        same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        told[name] = {"error": error, "deterministic": same}
        works["forward"][name], works["backward"][name] = torch.no_grad()(loss), backward
    del truth
    effort = {"rounds": 10 if quick else 50, "seconds": 2.0 if quick else 20.0}
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for part, raced in works.items():
        for name, timing in interleaved(raced, device, **effort).items():  # type: ignore[arg-type]
            floor = floor_ms(case, part, name, gpu)
            rows.append({
                "case": case.name, "backend": name, "part": part, "ms": timing.median, "ms_p20": timing.p20,
                "ms_p80": timing.p80, "host_ms": timing.host, "tflops": None,
                "gbps": touched(case, part) / timing.median / 1e6, "floor_ms": floor,
                "share": floor / timing.median if floor else None, "peak_mb": peak_memory(raced[name], device),
                **told[name],
            })  # fmt: skip
    return rows


def _truth(case: GeometryCase, device: torch.device) -> list[Tensor]:
    """Value and gradients in float64 by the definition, or of clouds by comparing all with all."""
    found, leaves = rivals(case, device, torch.float64)
    exact = next((name for name in ("eager", "chunked cdist") if name in found), "ours")
    value = found[exact]()
    return [value.detach(), *backward_of(value, leaves)()]


def backward_of(value: Tensor, leaves: list[Tensor]) -> Work:
    """Gradients of a loss, or of pictures for one gradient that is not the same everywhere."""
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
    """The same on a short clip of small frames, or on fewer points."""
    shape = (2000,) if case.op == "chamfer" else (1, 5, 96, 144)
    return dataclasses.replace(case, name=f"{case.name}-small", shape=shape)
