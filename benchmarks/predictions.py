"""Predicted times of the attention and elementwise kernels on an H200, from shapes and machine code.

The prediction is the longest of three times. Memory: the bytes that our kernels move, at `MEMORY_SHARE` of the rate
that the floors assume. Products: those that our kernels compute, which are more than the result needs (lanes padded
beyond D, tiles beyond the end of a row, masked blocks, seven products in the backward pass where five are needed), at
the rate that published Triton kernels reach on an H100, whose tensor cores the H200 has. Instructions: temporal kernels
have no loops, so the compiler's count of instructions gives the time to issue them, at `ISSUE_SHARE` of an SM's rate.
Launches, the small delta kernel of the backward pass and, in kernels with loops, exponentials and masks are not
counted, so true times are longer.

`kernels` is the content of benchmarks/results/machine-code.json, as `machine_code` writes it.
"""

import dataclasses
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from phys4d.benchmarks.cases import DTYPE, AdaptiveNormCase, AttentionCase, NormRopeCase
from phys4d.benchmarks.comparison import SUSTAINED
from phys4d.kernels.attention import Full, Spatial, Temporal, Window, flash, hardware, short_rows, tiles, window

GPU, ARCH = "H200", 90
PARTS = ("forward", "backward")
Kernels = Sequence[dict[str, Any]]
# A guess for streaming kernels with enough bytes in flight; backward kernels use more registers: fewer programs run.
MEMORY_SHARE = {"forward": 0.8, "backward": 0.7}
ISSUE_SHARE = 0.6  # a guess: the share of one instruction per clock in each quarter of an SM
SMS, GIGAHERTZ = 132, 1.83  # of an H200; at this clock its peak is 989 TFLOP/s
# Lanes of a head -> TFLOP/s of Triton's fused-attention tutorial, forward, on an H100: lowest and highest published,
# FlashAttention-3's chart, pytorch/benchmark#2391, tritonbench#141.
TRITON_FORWARD = {64: (403.0, 403.0), 128: (395.0, 477.0)}
# No published figure of the tutorial's backward pass was found. In its place the mean ratio of backward to forward is
# taken from FlashAttention-2, FlashAttention-3 and cuDNN on an H100 (FlashAttention-3's charts; five products).
PEERS = {
    64: ((324.0, 291.0), (497.0, 474.0), (413.0, 433.0)),
    128: ((370.0, 322.0), (648.0, 561.0), (606.0, 516.0)),
}


@dataclass(frozen=True)
class Prediction:
    """The predicted time of one part of a case. Times are milliseconds.

    Attributes:
        bytes: that the result needs, each tensor once; moved: that our kernels read and write.
        flops: that the result needs; work: that our kernels compute.
        rate: TFLOP/s assumed for the products.
        floor: of `bytes` and `flops` at the sustained rates of the GPU.
        by_memory, by_issue: of the bytes moved, and of issuing all instructions (0 where not counted).
    """

    case: str
    part: str
    bytes: int
    moved: int
    flops: int
    work: float
    rate: float
    floor: float
    by_memory: float
    by_issue: float

    @property
    def by_products(self) -> float:
        """Milliseconds of the products that our kernels compute."""
        return self.work / self.rate / 1e9 if self.work else 0.0

    @property
    def milliseconds(self) -> float:
        """The predicted time."""
        return max(self.by_memory, self.by_products, self.by_issue)

    @property
    def reason(self) -> str:
        """The longest of the three times and its origin, in one line."""
        if self.by_issue >= max(self.by_memory, self.by_products):
            return f"instructions: {self.by_issue * ISSUE_SHARE * 1e3:.0f} us of issuing / {ISSUE_SHARE}"
        if self.by_memory >= self.by_products:
            what = "floor" if self.moved == self.bytes else f"{self.moved / 1e6:,.0f} MB moved"
            return f"memory: {what} / {MEMORY_SHARE[self.part]}"
        return f"products: {self.work / 1e9:,.0f} GFLOP ({self.work / self.flops:.2f} x) at {self.rate:.0f} TFLOP/s"


def rate(dim: int, part: str) -> float:
    """TFLOP/s expected of a Triton kernel with heads of `dim` lanes: that of the nearest published head dimension."""
    width = min(TRITON_FORWARD, key=lambda width: abs(width - dim))
    low, high = TRITON_FORWARD[width]
    ratio = sum(backward / forward for forward, backward in PEERS[width]) / len(PEERS[width])
    return (low + high) / 2 * (ratio if part == "backward" else 1.0)


def work(case: AttentionCase, part: str) -> float:
    """FLOPs of the products that our kernels compute on `ARCH`, with whole tiles and masked blocks."""
    with patch.object(hardware, "architecture", return_value=ARCH):  # kernels choose the configurations of that GPU
        if isinstance(case.pattern, Temporal):
            pairs = {"whole": _programs(case, part) * _options(case, part)["BLOCK"] ** 2}
        else:
            kernels = ("forward",) if part == "forward" else ("queries", "keys")
            pairs = {kernel: _pairs(case, kernel) for kernel in kernels}
    products = {"forward": 2, "queries": 3, "keys": 4, "whole": 2 if part == "forward" else 5}
    return sum(count * products[kernel] for kernel, count in pairs.items()) * 2 * sum(tiles.split(case.dim))


def _options(case: AttentionCase, part: str) -> dict[str, int]:
    with patch.object(hardware, "architecture", return_value=ARCH):
        return short_rows.config(case.grid[0], case.dim, DTYPE, part == "backward", case.lanes is not None)


def _programs(case: AttentionCase, part: str) -> int:
    """Programs of a temporal kernel."""
    options = _options(case, part)
    rows = case.batch * case.heads * case.grid[1] * case.grid[2]
    return -(-rows // (options["BLOCK"] // options["PAD"]))


def issuing(case: AttentionCase, part: str, kernels: Kernels) -> float:
    """Milliseconds of issuing all instructions of a temporal kernel."""
    wanted = (case.name, f"short_rows.{part}", ARCH)
    counts = [k["instructions"]["total"] for k in kernels if (k["case"], k["kernel"], k["arch"]) == wanted]
    assert len(counts) == 1, f"{len(counts)} kernels for {wanted}: run phys4d.benchmarks.machine_code again"
    return counts[0] * _options(case, part)["num_warps"] * _programs(case, part) / (SMS * 4 * GIGAHERTZ * 1e6)


def _pairs(case: AttentionCase, kernel: str) -> int:
    """The number of pairs (query, key) that a kernel of full, spatial or windowed attention multiplies."""
    assert isinstance(case.pattern, Full) or not case.words, case.name
    if isinstance(case.pattern, Window):
        cells, options = window.config(kernel, case.dim, DTYPE)
        sizes = (case.pattern.t, case.pattern.h, case.pattern.w)
        sides = window.box(case.grid, sizes, cells, options["BLOCK_N"])
        deep, down, across = (
            _spans(size, width, side, kernel == "keys")
            for size, width, side in zip(case.grid, sizes, sides, strict=True)
        )
        stretches = sum(-(-h * w // options["BLOCK_N"]) for h in down for w in across)
        return case.batch * case.heads * cells * sum(deep) * stretches * options["BLOCK_N"]
    options = flash.config(kernel, case.dim, DTYPE)
    spatial = isinstance(case.pattern, Spatial)
    rows, length = (case.grid[0], case.grid[1] * case.grid[2]) if spatial else (1, case.tokens)
    padded = math.prod(-(-length // options[block]) * options[block] for block in ("BLOCK_M", "BLOCK_N"))
    return case.batch * case.heads * rows * padded


def _spans(size: int, width: int, side: int, of_keys: bool) -> list[int]:
    """Along one axis, per box of `side` cells: the number of keys that its queries see, or of queries that see it."""
    begin = np.clip(np.arange(size) - width // 2, 0, size - width)[:, None]
    sees = (begin <= np.arange(size)) & (np.arange(size) < begin + width)
    sees = sees.T if of_keys else sees
    return [int(sees[i : i + side].any(axis=0).sum()) for i in range(0, size, side)]


def moved(case: AdaptiveNormCase, part: str, kernels: Kernels) -> int:
    """Bytes that our kernels of gate, residual, norm and modulation read and write, with all gradients.

    Besides the tokens these are: mean and deviation of every token; the rows of the modulation once per program (the
    cache serves programs that share a row); in the backward pass the programs' partial sums of the gradients of scale,
    shift and gate, written, read and added up; for rows by index, the order of the tokens and the segments.
    """
    tables = 0 if not case.modulated else 3 if part == "forward" else 2
    wanted = [
        kernel for kernel in kernels
        if (kernel["case"], kernel["kernel"], kernel["arch"]) == (case.name, f"adaptive_norm.{part}", ARCH)
        and kernel["options"].get("GATE_GRADIENT", case.modulated) == case.modulated
    ]  # fmt: skip
    assert len(wanted) == 1, f"{len(wanted)} kernels of {case.name} {part}: run phys4d.benchmarks.machine_code again"
    programs = wanted[0]["programs"]
    tensors = dataclasses.replace(case, rows=0).bytes(part)  # type: ignore[arg-type]
    found = tensors + 8 * case.tokens + programs * case.width * case.table.itemsize * (tables + case.affine)
    if case.affine and part == "forward":
        found += programs * case.width * case.table.itemsize
    if case.mixed:
        found += 4 * case.tokens + 12 * programs
    if part == "backward":
        sums = 4 * case.width * (3 if case.modulated else 2)
        found += sums * (programs if programs == case.rows and not case.mixed else 2 * programs + case.rows)
    return found


def predict(case: AttentionCase | NormRopeCase | AdaptiveNormCase, part: str, kernels: Kernels) -> Prediction:
    """The prediction for one part of a named case."""
    tflops, terabytes = SUSTAINED[GPU]
    passed = case.bytes(part)  # type: ignore[arg-type]
    flops, taken, issued = 0, 0.0, 0.0
    if isinstance(case, AttentionCase):
        flops, taken = case.flops(part), work(case, part)  # type: ignore[arg-type]
        if isinstance(case.pattern, Temporal):
            issued = issuing(case, part, kernels)
    floor = max(passed / terabytes / 1e9, flops / tflops / 1e9)
    ours = moved(case, part, kernels) if isinstance(case, AdaptiveNormCase) else passed
    reached = 0.0 if isinstance(case, AdaptiveNormCase) else rate(case.dim, part)
    return Prediction(
        case.name, part, passed, ours, flops, taken, reached, floor, ours / terabytes / 1e9 / MEMORY_SHARE[part],
        issued / ISSUE_SHARE,
    )  # fmt: skip


def table(kernels: Kernels, cases: Iterable[AttentionCase | NormRopeCase | AdaptiveNormCase]) -> str:
    """Markdown: bytes, FLOPs, floors and predicted times of the cases, none of them measured."""
    tflops, terabytes = SUSTAINED[GPU]
    lines = [
        f"Predicted for one {GPU}, never measured; floors at {terabytes} TB/s and {tflops:.0f} TFLOP/s.", "",
        "| case | part | MB | GFLOP | floor | predicted | of the floor | predicted from |", "|---" * 8 + "|",
    ]  # fmt: skip
    for case in cases:
        for part in PARTS:
            found = predict(case, part, kernels)
            bound = "products" if found.flops / tflops > found.bytes / terabytes else "bytes"
            needed = f"{found.flops / 1e9:,.1f}" if found.flops else ""
            lines.append(
                f"| {found.case} | {part} | {found.bytes / 1e6:,.0f} | {needed} | {_time(found.floor)}, {bound} "
                f"| {_time(found.milliseconds)} | {found.floor / found.milliseconds:.0%} | {found.reason} |"
            )
    return "\n".join(lines)


def assumptions() -> str:
    """The rates and shares that the predictions of attention assume, in one paragraph."""
    shares = " and ".join(f"{MEMORY_SHARE[part]} {part}" for part in PARTS)
    published = [
        f"{' to '.join(f'{figure:.0f}' for figure in dict.fromkeys(figures))} TFLOP/s with {width} lanes"
        for width, figures in TRITON_FORWARD.items()
    ]
    ratios = " and ".join(f"{rate(width, 'backward') / rate(width, 'forward'):.2f}" for width in TRITON_FORWARD)
    words = f"""Memory: the floor divided by a guessed share of it, {shares}. Products: those that our kernels compute
        in all their tiles (x: relative to what the result needs), at the rate that upstream Triton's attention reaches
        in the forward pass on an H100 ({", ".join(published)}; the middle of a range). For its backward pass no
        published figure was found: its rate is assumed to be {ratios} of the forward rate, the mean ratio of
        FlashAttention-2, FlashAttention-3 and cuDNN. Instructions: those of the temporal kernels on sm_{ARCH}, one
        per clock in every quarter of {SMS} SMs at {GIGAHERTZ} GHz, divided by a guessed share of {ISSUE_SHARE}."""
    return textwrap.fill(" ".join(words.split()), 120)


def _time(milliseconds: float) -> str:
    return f"{milliseconds * 1e3:.0f} us" if milliseconds < 1 else f"{milliseconds:.3g} ms"
