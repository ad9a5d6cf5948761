"""How fast the kernels should be on an H200, worked out before anyone has measured it.

    python -m phys4d.benchmarks.predictions        # fills the table of docs/attention-kernels.md

A kernel is bound by memory or by products. Memory: the bytes that our kernels move, at `MEMORY_SHARE` of the rate that
the floors assume. Products: those that our kernels take, which are more than the result needs (lanes held beyond D,
tiles beyond a row's end, masked blocks, backward's seven for five), at the rate that Triton kernels of others reach on
an H100, whose tensor cores are the H200's. Temporal kernels have no loops, so that the compiler's count of instructions
tells how long it takes to issue them all, at `ISSUE_SHARE` of what an SM can. Whichever takes longer is the prediction.
Launches, the small delta kernel of backward and, in the other kernels, what is neither memory nor product
(exponentials, masks) are left out, so it errs on the fast side.
"""

import dataclasses
import json
import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from phys4d.benchmarks.attention import SUSTAINED
from phys4d.benchmarks.cases import ATTENTION, DTYPE, AdaptiveNormCase, AttentionCase, NormRopeCase
from phys4d.benchmarks.machine_code import PAGE, RESULT
from phys4d.kernels.attention import Full, Spatial, Temporal, Window, flash, hardware, short_rows, tiles, window

GPU, ARCH = "H200", 90
PARTS = ("forward", "backward")
# A guess, of streaming kernels that keep enough bytes in flight: backward has more registers and fewer programs.
MEMORY_SHARE = {"forward": 0.8, "backward": 0.7}
ISSUE_SHARE = 0.6  # a guess, too: of one instruction per clock in each quarter of an SM
SMS, GIGAHERTZ = 132, 1.83  # of an H200; the clock is that of its 989 TFLOP/s
# Lanes of a head -> TFLOP/s of Triton's fused-attention tutorial forward on an H100, lowest and highest published:
# FlashAttention-3's chart, pytorch/benchmark#2391, tritonbench#141.
TRITON_FORWARD = {64: (403.0, 403.0), 128: (395.0, 477.0)}
# Of an upstream Triton backward no published figure was found. Forward and backward of FlashAttention-2,
# FlashAttention-3 and cuDNN on an H100 (FlashAttention-3's charts), whose mean ratio takes its place; five products.
PEERS = {
    64: ((324.0, 291.0), (497.0, 474.0), (413.0, 433.0)),
    128: ((370.0, 322.0), (648.0, 561.0), (606.0, 516.0)),
}


@dataclass(frozen=True)
class Prediction:
    """One part of a case. Times in milliseconds; `work` is the FLOPs that our kernels take, `flops` what is needed, and
    `moved` the bytes that they read and write, `bytes` what must pass."""

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
        """Milliseconds of the products that our kernels take."""
        return self.work / self.rate / 1e9 if self.work else 0.0

    @property
    def milliseconds(self) -> float:
        """The prediction."""
        return max(self.by_memory, self.by_products, self.by_issue)

    @property
    def reason(self) -> str:
        """Where it comes from, in a line."""
        if self.by_issue >= max(self.by_memory, self.by_products):
            return f"instructions: {self.by_issue * ISSUE_SHARE * 1e3:.0f} us of issuing / {ISSUE_SHARE}"
        if self.by_memory >= self.by_products:
            what = "floor" if self.moved == self.bytes else f"{self.moved / 1e6:,.0f} MB moved"
            return f"memory: {what} / {MEMORY_SHARE[self.part]}"
        return f"products: {self.work / 1e9:,.0f} GFLOP ({self.work / self.flops:.2f} x) at {self.rate:.0f} TFLOP/s"


def rate(dim: int, part: str) -> float:
    """TFLOP/s to expect of a Triton kernel with heads of `dim` lanes: as with the nearest width that is published."""
    width = min(TRITON_FORWARD, key=lambda width: abs(width - dim))
    low, high = TRITON_FORWARD[width]
    ratio = sum(backward / forward for forward, backward in PEERS[width]) / len(PEERS[width])
    return (low + high) / 2 * (ratio if part == "backward" else 1.0)


def work(case: AttentionCase, part: str) -> float:
    """FLOPs of the products that our kernels take on `ARCH`, whole tiles and masked blocks included."""
    with patch.object(hardware, "architecture", return_value=ARCH):  # kernels choose their configurations as there
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


def issuing(case: AttentionCase, part: str) -> float:
    """Milliseconds of issuing a temporal kernel's instructions, as the committed machine code has them."""
    kernels = json.loads(RESULT.read_text())
    wanted = (case.name, f"short_rows.{part}", ARCH)
    counts = [k["instructions"]["total"] for k in kernels if (k["case"], k["kernel"], k["arch"]) == wanted]
    assert len(counts) == 1, f"{RESULT.name} has {len(counts)} of {wanted}: run phys4d.benchmarks.machine_code --adopt"
    return counts[0] * _options(case, part)["num_warps"] * _programs(case, part) / (SMS * 4 * GIGAHERTZ * 1e6)


def _pairs(case: AttentionCase, kernel: str) -> int:
    """Pairs of a query and a key that a kernel of full, spatial or windowed attention multiplies."""
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


def _spans(size: int, width: int, side: int, towards_keys: bool) -> list[int]:
    """Along one axis: how many keys the queries of each side see together, or how many queries see its keys."""
    begin = np.clip(np.arange(size) - width // 2, 0, size - width)[:, None]
    sees = (begin <= np.arange(size)) & (np.arange(size) < begin + width)
    sees = sees.T if towards_keys else sees
    return [int(sees[i : i + side].any(axis=0).sum()) for i in range(0, size, side)]


def moved(case: AdaptiveNormCase, part: str) -> int:
    """Bytes that our kernels of gate, residual, norm and modulation read and write, all that are wanted.

    Beside the tokens: mean and deviation of each; the rows of the modulation once for every program, which the cache
    gives again where they are shared; backward the programs' sums of the gradients of factor, offset and gate, written,
    read again and added up; and, for rows by index, the order of tokens and the segments.
    """
    tables = 0 if not case.modulated else 3 if part == "forward" else 2
    wanted = [
        kernel for kernel in json.loads(RESULT.read_text())
        if (kernel["case"], kernel["kernel"], kernel["arch"]) == (case.name, f"adaptive_norm.{part}", ARCH)
        and kernel["options"].get("GATE_GRADIENT", case.modulated) == case.modulated
    ]  # fmt: skip
    assert len(wanted) == 1, f"{RESULT.name} has {len(wanted)} {part} of {case.name}: run machine_code --adopt"
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


def predict(case: AttentionCase | NormRopeCase | AdaptiveNormCase, part: str) -> Prediction:
    """For one part of one named case."""
    tflops, terabytes = SUSTAINED[GPU]
    passed = case.bytes(part)  # type: ignore[arg-type]
    flops, taken, issued = 0, 0.0, 0.0
    if isinstance(case, AttentionCase):
        flops, taken = case.flops(part), work(case, part)  # type: ignore[arg-type]
        if isinstance(case.pattern, Temporal):
            issued = issuing(case, part)
    floor = max(passed / terabytes / 1e9, flops / tflops / 1e9)
    ours = moved(case, part) if isinstance(case, AdaptiveNormCase) else passed
    reached = 0.0 if isinstance(case, AdaptiveNormCase) else rate(case.dim, part)
    return Prediction(
        case.name, part, passed, ours, flops, taken, reached, floor, ours / terabytes / 1e9 / MEMORY_SHARE[part],
        issued / ISSUE_SHARE,
    )  # fmt: skip


def table(cases: Iterable[AttentionCase | NormRopeCase | AdaptiveNormCase] = ATTENTION) -> str:
    """Markdown: what these cases need, their floors, and the times to expect, which are no measurement."""
    tflops, terabytes = SUSTAINED[GPU]
    lines = [
        f"Predicted for one {GPU}, never measured; floors at {terabytes} TB/s and {tflops:.0f} TFLOP/s.", "",
        "| case | part | MB | GFLOP | floor | predicted | of the floor | predicted from |", "|---" * 8 + "|",
    ]  # fmt: skip
    for case in cases:
        for part in PARTS:
            found = predict(case, part)
            bound = "products" if found.flops / tflops > found.bytes / terabytes else "bytes"
            needed = f"{found.flops / 1e9:,.1f}" if found.flops else ""
            lines.append(
                f"| {found.case} | {part} | {found.bytes / 1e6:,.0f} | {needed} | {_time(found.floor)}, {bound} "
                f"| {_time(found.milliseconds)} | {found.floor / found.milliseconds:.0%} | {found.reason} |"
            )
    return "\n".join(lines)


def told() -> str:
    """What the numbers of attention rest on, in a paragraph."""
    shares = " and ".join(f"{MEMORY_SHARE[part]} {part}" for part in PARTS)
    published = [
        f"{' to '.join(f'{figure:.0f}' for figure in dict.fromkeys(figures))} TFLOP/s with {width} lanes"
        for width, figures in TRITON_FORWARD.items()
    ]
    ratios = " and ".join(f"{rate(width, 'backward') / rate(width, 'forward'):.2f}" for width in TRITON_FORWARD)
    words = f"""Memory: the floor over a guessed share of it, {shares}. Products: those that our kernels take in all
        their tiles (x: times what is needed), at the rate that upstream Triton's attention reaches forward on an H100
        ({", ".join(published)}; the middle counts). For its backward no published figure was found: the rate is taken
        to fall to {ratios} of forward's, the mean of FlashAttention-2, FlashAttention-3 and cuDNN. Instructions: those
        of the temporal kernels on sm_{ARCH}, a clock each in every quarter of {SMS} SMs at {GIGAHERTZ} GHz, over a
        guessed share of {ISSUE_SHARE}."""
    return textwrap.fill(" ".join(words.split()), 120)


def _time(milliseconds: float) -> str:
    return f"{milliseconds * 1e3:.0f} us" if milliseconds < 1 else f"{milliseconds:.3g} ms"


def write() -> None:
    """Fills the table of docs/attention-kernels.md."""
    from phys4d.benchmarks.readme import filled

    PAGE.write_text(filled(PAGE.read_text(), "predictions", f"{table()}\n\n{told()}"))


if __name__ == "__main__":
    write()
