"""Whole blocks of video DiTs, forward and as a training step: stock, compiled, and with each of our operators.

    phys4d bench blocks [--device cpu|cuda] [--quick] [--case NAME ...] [--backend NAME ...] [--out DIR]

Wan2.2-TI2V-5B and CogVideoX-5B are diffusers' own classes, swapped by `accelerate`; Open-Sora 1.2 is `opensora_block`.
Weights and inputs are random. "ours, attention" replaces attention with the norm and rotation of queries and keys,
"ours, adaptive norm" replaces gate, residual, norm and modulation, "ours, both" replaces both. The stock Wan block gets
one row of modulation per token; "ours, both, a row a frame" gets one row per frame, as
`accelerate(timestep_per="frame")` passes it to its blocks. Peak memory is that of a training step with all gradients,
without weights and inputs. The error is the largest difference of the block's result from that of the stock block in
float32, relative to the largest absolute value of the latter; the floor is the time of all matrix products at the rate
that this GPU sustains.
"""

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.benchmarks import diffusers_blocks
from phys4d.benchmarks.cases import BLOCKS, DTYPE, BlockCase
from phys4d.benchmarks.comparison import Effort, Needed, Runner, compare, refused, sustained
from phys4d.benchmarks.diffusers_blocks import Alone
from phys4d.benchmarks.opensora_block import OpenSoraBlock
from phys4d.benchmarks.timing import compiled, on_gpu

PARTS: dict[str, tuple[str, ...]] = {
    "stock": (), "ours, attention": ("attention",), "ours, adaptive norm": ("norm",),
    "ours, both": ("attention", "norm"),
}  # fmt: skip
BY_FRAME = "ours, both, a row a frame"
COMPILED = {"compiled": "stock", "ours, both, compiled": "ours, both"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One implementation of a block.

    Attributes:
        call: the block.
        parameters: its weights.
        inputs: arguments that require gradients, by name.
        rest: the other arguments, by name.
    """

    call: Callable[..., Any]
    parameters: list[Tensor]
    inputs: dict[str, Tensor]
    rest: dict[str, Any]

    def outs(self) -> tuple[Tensor, ...]:
        """The result as a tuple of tensors."""
        found = self.call(**self.inputs, **self.rest)
        return found if isinstance(found, tuple) else (found,)

    def step(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forward and backward: gradients of all inputs and parameters, given those of the results."""
        return torch.autograd.grad(self.outs(), [*self.inputs.values(), *self.parameters], gradients)


def _variant(block: nn.Module, inputs: dict[str, Tensor], rest: dict[str, Any]) -> Variant:
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    return Variant(block, list(block.parameters()), leaves, rest)


def _opensora(case: BlockCase, device: torch.device, dtype: torch.dtype) -> dict[str, Variant]:
    temporal = type(case.pattern).__name__ == "Temporal"
    torch.manual_seed(0)
    with device:
        stock = OpenSoraBlock(case.width, case.heads, case.hidden, case.grid, temporal=temporal)
    diffusers_blocks.weighted(stock, dtype)
    shapes = {
        "x": (1, case.tokens, case.width), "text": (1, case.words, case.width), "t": (1, 6 * case.width),
        "t0": (1, 6 * case.width),
    }  # fmt: skip
    inputs = diffusers_blocks.drawn(device, dtype, **shapes)
    masked = torch.arange(case.grid[0], device=device)[None] >= case.grid[0] // 3
    found = {}
    for name, parts in PARTS.items():
        block = copy.deepcopy(stock)
        block.attention, block.norm = ("ours" if part in parts else "stock" for part in ("attention", "norm"))
        found[name] = _variant(block, inputs, {"masked": masked})
    return found


def _diffusers(
    make: Callable[[BlockCase, torch.device, torch.dtype], Alone], case: BlockCase, device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Variant]:  # fmt: skip
    from phys4d.kernels.integrate.diffusers import accelerate

    alone = make(case, device, dtype)
    found = {}
    for name, parts in PARTS.items():
        model, block = copy.deepcopy((alone.model, alone.block))
        if parts:
            report = accelerate(model, parts=parts)  # type: ignore[arg-type]
            assert report.swapped and not report.left, str(report)
        found[name] = _variant(block, alone.inputs, alone.rest)
    if make is diffusers_blocks.wan:
        frames = alone.inputs["temb"][:, :: case.tokens // case.grid[0]]
        both = found["ours, both"]
        inputs = both.inputs | {"temb": frames.clone().requires_grad_()}
        found[BY_FRAME] = dataclasses.replace(both, inputs=inputs)
    return found


def variants(case: BlockCase, device: torch.device, dtype: torch.dtype) -> dict[str, Variant]:
    """Every implementation of the block by name, "stock" first; ImportError where diffusers is needed and missing."""
    if case.model == "opensora":
        return _opensora(case, device, dtype)
    return _diffusers(getattr(diffusers_blocks, case.model), case, device, dtype)


def measure(case: BlockCase, device: torch.device, effort: Effort) -> list[dict[str, Any]]:
    """One row per variant and part, and one with the reason for each variant that cannot run."""
    names = [*PARTS, *([BY_FRAME] if case.model == "wan" else []), *COMPILED]
    try:
        found = variants(case, device, DTYPE)
    except ImportError as fault:
        why = f"diffusers cannot be imported ({str(fault)[:150]}); pip install 'phys4d[train]'"
        return [refused(case.name, name, why) for name in names if effort.takes(name)]
    rows = []
    if on_gpu(device):
        for name, of in COMPILED.items():
            found[name] = dataclasses.replace(found[of], call=compiled(found[of].call))
    else:
        rows = [refused(case.name, name, "measured on CUDA only") for name in COMPILED if effort.takes(name)]
    truth = _truth(found["stock"])
    rates = sustained(device)

    def needed(part: Any, name: str) -> Needed:
        flops = case.flops(part)
        return Needed(flops=flops, floor_ms=flops / rates[0] / 1e9 if rates else None)

    makers = {name: partial(_runner, found[name], truth) for name in names if name in found}
    return rows + compare(case.name, makers, device, effort=effort, needed=needed)


def _runner(variant: Variant, truth: tuple[Tensor, ...]) -> Runner:
    gradients = gradients_of(truth, DTYPE)
    forward = torch.no_grad()(variant.outs)

    def step() -> tuple[Tensor, ...]:
        return variant.step(gradients)

    def verdict() -> tuple[float, bool]:
        outs = forward()
        error = max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in zip(outs, truth, strict=True))
        return error, all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))

    return Runner({"forward": forward, "forward and backward": step}, verdict)


def gradients_of(outs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Standard normal tensors with the shapes of the results, the same for every variant."""
    shapes = {str(number): out.shape for number, out in enumerate(outs)}
    return tuple(diffusers_blocks.drawn(outs[0].device, dtype, **shapes).values())


@torch.no_grad()
def _truth(stock: Variant) -> tuple[Tensor, ...]:
    """The stock block's result in float32."""
    block = copy.deepcopy(stock.call).float()  # type: ignore[attr-defined]
    inputs = {name: t.detach().float() for name, t in stock.inputs.items()}
    return Variant(block, [], inputs, stock.rest).outs()


def cases(names: list[str] | None, device: torch.device) -> list[BlockCase]:
    """The named cases, all if none is named; small ones where there is no GPU."""
    chosen = [case for case in BLOCKS if names is None or case.name in names]
    return chosen if device.type == "cuda" else [small(case) for case in chosen]


def small(case: BlockCase) -> BlockCase:
    """The same block with few tokens and two narrow heads."""
    return dataclasses.replace(
        case, name=f"{case.name}-small", grid=(6, 4, 6), heads=2, dim=16, hidden=128, words=min(case.words, 8)
    )
