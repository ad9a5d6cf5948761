"""The shapes on which every kernel is compiled, tested and timed, named by the models that they come from."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from phys4d.kernels.attention import Full, Pattern, Spatial, Temporal, Window
from phys4d.kernels.attention.patterns import Grid

DTYPE = torch.bfloat16  # of every case


@dataclass(frozen=True)
class AttentionCase:
    """Self-attention of one layer, bfloat16: `batch` clips, each `words` text tokens and a grid (T, H, W) of tokens."""

    name: str
    model: str
    pattern: Pattern
    batch: int
    grid: Grid
    heads: int
    dim: int
    words: int = 0
    lanes: tuple[int, int, int] | None = None  # rotated lanes per axis; None: without norm (RMS per head) and rotation
    kv_heads: int | None = None  # heads of keys and values; None: as many as of queries
    mask: torch.dtype | None = None  # of a mask [1, 1, S, S]; None: without

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return self.words + self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def pairs(self) -> int:
        """The number of pairs (query, visible key) in all clips and heads."""
        time, cells = self.grid[0], self.grid[1] * self.grid[2]
        if isinstance(self.pattern, Full):
            return self.batch * self.heads * self.tokens**2
        own = cells
        if isinstance(self.pattern, Temporal):
            own = time
        elif isinstance(self.pattern, Window):
            own = self.pattern.t * self.pattern.h * self.pattern.w
        return self.batch * self.heads * (time * cells * (own + self.words) + self.words * self.tokens)

    def flops(self, part: Literal["forward", "backward"]) -> int:
        """FLOPs of the products that the result needs: two products forward, five backward."""
        return self.pairs * self.dim * (4 if part == "forward" else 10)

    def int8_ms(self, tflops: float) -> float:
        """Milliseconds of forward's products where the scores' run on int8, at twice the rate of 16 bits."""
        return self.flops("forward") / 2 * (1 + 1 / 2) / tflops / 1e9

    def bytes(self, part: Literal["forward", "backward"]) -> int:
        """Bytes of q, k, v, out, or backward of q, k, v, dout and three gradients, each read or written once."""
        return self.batch * self.tokens * self.heads * self.dim * 2 * (4 if part == "forward" else 7)


ATTENTION = (
    AttentionCase("wan-5b", "Wan2.2-TI2V-5B self-attention", Full(), 1, (31, 22, 40), 24, 128),
    AttentionCase("cogvideox-5b", "CogVideoX-5B joint attention", Full(), 1, (13, 30, 45), 48, 64, words=226),
    AttentionCase("wan-1.3b", "Wan2.1-T2V-1.3B, 81 frames at 480 x 832", Full(), 1, (21, 30, 52), 12, 128),
    AttentionCase("opensora-spatial", "Open-Sora 1.2 spatial, 720p 2 s", Spatial(), 1, (15, 60, 60), 16, 72),
    AttentionCase("opensora-temporal-720p", "Open-Sora 1.2 temporal, 720p 2 s", Temporal(), 1, (15, 60, 60), 16, 72),
    AttentionCase("opensora-temporal-480p", "Open-Sora 1.2 temporal, 480p 4 s", Temporal(), 1, (30, 30, 53), 16, 72),
    AttentionCase("temporal-stress", "131,072 rows of 16 frames", Temporal(), 32, (16, 64, 64), 16, 72),
    AttentionCase(
        "opensora-temporal-norm", "with norm and rotation", Temporal(), 1, (15, 60, 60), 16, 72, lanes=(72, 0, 0)
    ),
    AttentionCase("wan-window", "Wan2.2 grid, window of 12 %", Window(15, 11, 20), 1, (31, 22, 40), 24, 128),
)

# The same layers with scores from int8 products, which backend "int8" computes forward alone.
INT8 = tuple(replace(case, name=f"{case.name}-int8") for case in ATTENTION if isinstance(case.pattern, Full))


def _every_pattern(*dims: int, suffix: str = "") -> tuple[AttentionCase, ...]:
    return tuple(
        AttentionCase(
            f"{name}-{dim}{suffix}", "no model", pattern, 1, grid, 4, dim, words,
            lanes=(dim, 0, 0) if "norm" in name else None,
        )
        for dim in dims
        for name, pattern, grid, words in (
            ("full", Full(), (8, 16, 16), 32),
            ("temporal-8", Temporal(), (8, 16, 16), 0),
            ("temporal-64", Temporal(causal=True), (64, 16, 16), 0),
            ("temporal-128", Temporal(), (128, 8, 8), 0),
            ("temporal-16-norm", Temporal(), (16, 16, 16), 0),
            ("temporal-64-norm", Temporal(), (64, 16, 16), 0),
            ("window", Window(5, 9, 9), (16, 16, 16), 32),
        )
    )


# Compiled and not timed: every pattern at head dimensions of no listed model, in bfloat16, and some in float32. Not in
# float32: rows of 64 and 128 tokens, which the kernel of short rows multiplies whole, and which spill kilobytes. REACH:
# heads that share keys, causal sequences and masks.
VARIETY = _every_pattern(16, 40, 96)
REACH = (
    AttentionCase("causal-64", "no model", Full(causal=True), 1, (8, 16, 16), 4, 64),
    AttentionCase("causal-128", "no model", Full(causal=True), 1, (8, 16, 16), 4, 128),
    AttentionCase("shared-64", "no model", Full(), 1, (8, 16, 16), 8, 64, kv_heads=2),
    AttentionCase("shared-128", "no model", Full(causal=True), 1, (8, 16, 16), 8, 128, kv_heads=1),
    AttentionCase("shared-spatial-72", "no model", Spatial(), 1, (8, 16, 16), 8, 72, 32, kv_heads=2),
    AttentionCase("masked-64", "no model", Full(), 1, (8, 16, 16), 4, 64, mask=torch.bool),
    AttentionCase("masked-128", "no model", Full(), 1, (8, 16, 16), 4, 128, mask=torch.bool),
    AttentionCase("added-128", "no model", Full(), 1, (8, 16, 16), 4, 128, mask=torch.bfloat16),
)
FLOAT32 = tuple(
    case
    for case in _every_pattern(64, 128, 256, suffix="-float32")
    if case.name.startswith(("full", "window", "temporal-8"))
)


@dataclass(frozen=True)
class NormRopeCase:
    """Norm and rotation of the queries and keys of one layer, bfloat16."""

    name: str
    model: str
    kind: Literal["rms", "layer", "rms_across_heads"]
    grid: Grid
    heads: int
    dim: int
    lanes: tuple[int, int, int]
    layout: Literal["interleaved", "half"] = "interleaved"
    words: int = 0

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return self.words + self.grid[0] * self.grid[1] * self.grid[2]

    def bytes(self, part: Literal["forward", "backward"]) -> int:
        """Bytes read or written once: queries and keys in and out; backward x, dy, dx. The tables stay in the cache."""
        return 2 * self.tokens * self.heads * self.dim * 2 * (2 if part == "forward" else 3)


NORM_ROPE = (
    NormRopeCase("wan-norm-rope", "Wan2.2-TI2V-5B", "rms_across_heads", (31, 22, 40), 24, 128, (44, 42, 42)),
    NormRopeCase("cogvideox-norm-rope", "CogVideoX-5B", "layer", (13, 30, 45), 48, 64, (16, 24, 24), words=226),
    NormRopeCase("opensora-norm-rope", "Open-Sora 1.2 temporal", "rms", (15, 60, 60), 16, 72, (72, 0, 0)),
)


@dataclass(frozen=True)
class AdaptiveNormCase:
    """The operator between two layers of a block, bfloat16: gate, residual, LayerNorm, modulation."""

    name: str
    model: str
    tokens: int
    width: int
    rows: int = 1
    mixed: bool = False  # the row of each token is given by an index, else rows are equal runs of tokens
    affine: bool = False  # the norm has weight and bias
    modulated: bool = True  # there are gate, scale and shift
    table: torch.dtype = torch.float32  # of gate, scale and shift

    def bytes(self, part: Literal["forward", "backward"]) -> int:
        """Bytes read or written once.

        Forward: x, y, stream, out and the distinct rows of gate, scale and shift. Backward: stream, the gradients of
        stream, out and x; with a gate also y and its gradient; the rows of gate and scale, and three gradients of rows.
        """
        tensors = 4 if part == "forward" else 6 if self.modulated else 4
        tables = (3 if part == "forward" else 5) if self.modulated else 0
        row = self.rows * self.width * self.table.itemsize
        return tensors * self.tokens * self.width * DTYPE.itemsize + tables * row


_WAN, _COGVIDEOX, _OPENSORA = (27_280, 3072), (17_550, 3072), (54_000, 1152)  # video tokens, channels
ADAPTIVE_NORM = (
    AdaptiveNormCase("wan-adaptive", "Wan2.2-TI2V-5B, one timestep", *_WAN),
    AdaptiveNormCase("wan-adaptive-frames", "Wan2.2-TI2V-5B, a row for each frame", *_WAN, rows=31),
    AdaptiveNormCase("wan-adaptive-index", "Wan2.2-TI2V-5B, two rows by index", *_WAN, rows=2, mixed=True),
    AdaptiveNormCase("wan-adaptive-tokens", "Wan2.2-TI2V-5B, a row for each token", *_WAN, rows=27_280),
    AdaptiveNormCase("wan-residual-norm", "Wan2.2-TI2V-5B, before the text", *_WAN, affine=True, modulated=False),
    AdaptiveNormCase("cogvideox-adaptive", "CogVideoX-5B, video", *_COGVIDEOX, affine=True, table=DTYPE),
    AdaptiveNormCase("opensora-adaptive", "Open-Sora 1.2, 720p 2 s, masked frames", *_OPENSORA, rows=15, table=DTYPE),
)


@dataclass(frozen=True)
class BlockCase:
    """One whole block of a video DiT on one clip, bfloat16: attention, cross-attention if any, feed-forward."""

    name: str
    model: Literal["wan", "cogvideox", "opensora"]
    grid: Grid
    heads: int
    dim: int
    hidden: int  # channels inside the feed-forward layer
    words: int  # of text: before the video in CogVideoX, in cross-attention elsewhere
    pattern: Pattern

    @property
    def tokens(self) -> int:
        """Tokens of the video."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def width(self) -> int:
        """Channels."""
        return self.heads * self.dim

    def flops(self, part: Literal["forward", "forward and backward"]) -> int:
        """FLOPs of all matrix products; backward takes 2 times those of linear layers, 2.5 times attention's."""
        joint = self.model == "cogvideox"
        length = self.tokens + (self.words if joint else 0)
        layers = length * self.width * (8 * self.width + 4 * self.hidden)
        words = self.words if joint else 0
        case = AttentionCase(self.name, self.model, self.pattern, 1, self.grid, self.heads, self.dim, words)
        attention = case.flops("forward")
        if not joint:
            layers += 4 * self.width**2 * (self.tokens + self.words)
            attention += 4 * self.tokens * self.words * self.width
        if part == "forward":
            return layers + attention
        return 3 * layers + attention * 7 // 2


BLOCKS = (
    BlockCase("wan-block", "wan", (31, 22, 40), 24, 128, 14_336, 512, Full()),
    BlockCase("cogvideox-block", "cogvideox", (13, 30, 45), 48, 64, 12_288, 226, Full()),
    BlockCase("opensora-spatial-block", "opensora", (15, 60, 60), 16, 72, 4608, 300, Spatial()),
    BlockCase("opensora-temporal-block", "opensora", (15, 60, 60), 16, 72, 4608, 300, Temporal()),
)


@dataclass(frozen=True)
class GeometryCase:
    """An operator of 4D geometry, float32: on a clip of shape (clips, frames, height, width), or on two clouds."""

    name: str
    model: str
    op: str
    shape: tuple[int, ...]  # of clouds: (points,)
    kind: Literal["", "uniform", "surface"] = ""  # of clouds: in a cube, or surfaces seen by a camera


CLIP = (1, 49, 480, 720)  # CogVideoX's: 17 million pixels
GEOMETRY = (
    GeometryCase("warp", "phases 1 to 3", "warp", CLIP),
    GeometryCase("depth-scale-shift", "phase 1", "depth scale_shift", CLIP),
    GeometryCase("depth-all", "phase 1", "depth all", CLIP),
    GeometryCase("flow-l1", "phases 1 and 2", "flow l1", CLIP),
    GeometryCase("flow-laplace", "phase 1", "flow laplace", CLIP),
    GeometryCase("scene-flow", "phase 2", "scene flow", CLIP),
    GeometryCase("flow-warp", "colours of a clip", "flow_warp", CLIP),
    GeometryCase("splat", "colours of a clip", "splat", CLIP),
    GeometryCase("chamfer-100k", "phase 3", "chamfer", (100_000,), "uniform"),
    GeometryCase("chamfer-100k-surface", "phase 3", "chamfer", (100_000,), "surface"),
    GeometryCase("chamfer-frame", "phase 3, all pixels of a frame", "chamfer", (345_600,), "surface"),
)
