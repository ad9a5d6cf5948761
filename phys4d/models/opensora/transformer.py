"""STDiT3, the transformer of Open-Sora 1.2, on our kernels, with the parameter names of its published weights."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from phys4d.kernels.attention import Spatial, Temporal, attention, attention_packed
from phys4d.kernels.attention.context import Context
from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.elementwise import QKNorm, Rope, adaptive_norm
from phys4d.kernels.integrate.diffusers import gathered, own_part
from phys4d.models.backbone import autocast
from phys4d.models.opensora.embeddings import CaptionEmbedder, Mlp, NumberEmbedder, places

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup

EPSILON = 1e-6  # of all norms
Grid = tuple[int, int, int]


def by_frame(change: Callable[[Tensor, Parts], Tensor], x: Tensor, frames: int, parts: Parts) -> Tensor:
    """Tokens [B, T' places, C] after `own_part` or `gathered` of each frame's places."""
    return change(x.unflatten(1, (frames, -1)).flatten(0, 1), parts).unflatten(0, (len(x), -1)).flatten(1, 2)


class HeadNorm(nn.Module):
    """The weight of a norm of queries or keys per head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))


class SelfAttention(nn.Module):
    """Attention of each frame's tokens to each other, or of each place's over time; queries and keys are normed per
    head, and over time rotated."""

    def __init__(self, width: int, heads: int, normed: bool, temporal: bool) -> None:
        super().__init__()
        self.heads, self.temporal = heads, temporal
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        if normed:
            self.q_norm, self.k_norm = HeadNorm(width // heads), HeadNorm(width // heads)
        self.normed = normed

    def forward(
        self, x: Tensor, grid: Grid, rope: Rope | None, backend: str, parts: Parts | None, context: Context
    ) -> Tensor:
        """Tokens x [B, T' H' W', width] of a grid (T', H', W') -> the same shape; rope turns over time.

        backend: of attention. parts: the division of each frame's tokens over ranks, of which x has this rank's, its
        grid (T', own, 1); context: how frames then exchange them. Over time nothing is exchanged.
        """
        norm = QKNorm("rms", self.q_norm.weight, self.k_norm.weight, epsilon=EPSILON) if self.normed else None
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if parts is None or self.temporal:
            pattern = Temporal() if self.temporal else Spatial()
            rope = rope if self.temporal else None
            out = attention_packed(qkv, grid=grid, pattern=pattern, qk_norm=norm, rope=rope, backend=backend)
        else:
            frames = qkv.unflatten(1, (grid[0], -1)).flatten(0, 1)  # each a sequence of its own
            across: dict[str, Any] = {"grid": (parts.count, 1, 1), "group": parts.group, "context": context}
            out = attention(*frames.unbind(2), qk_norm=norm, backend=backend, **across)
            out = out.unflatten(0, (len(x), -1)).flatten(1, 2)
        projected: Tensor = self.proj(out.flatten(2))
        return projected


class CrossAttention(nn.Module):
    """Attention of video tokens to the tokens of their clip's caption."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear, self.kv_linear = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, lengths: Tensor, backend: str) -> Tensor:
        """x [B, tokens, width], text [B, L, width], of which each clip has lengths [B] tokens -> as x."""
        q = self.q_linear(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv_linear(text).unflatten(-1, (2, self.heads, -1)).unbind(2)
        projected: Tensor = self.proj(attention(q, k, v, key_lengths=lengths, backend=backend).flatten(2))
        return projected


class Block(nn.Module):
    """Self-attention within frames or over time, attention to the caption, then an MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, normed: bool, temporal: bool) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, normed, temporal)
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = Mlp(width, int(width * mlp_ratio), width)
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.backend = "auto"
        self.context: Context = "auto"

    def forward(
        self, x: Tensor, text: Tensor, lengths: Tensor, modulation: Tensor, grid: Grid, rope: Rope | None,
        parts: Parts | None = None,
    ) -> Tensor:  # fmt: skip
        """Tokens x [B, T' H' W', width] in the order of grid, (T', H', W') -> the same.

        text: [B, L, width]; lengths: [B] of its tokens. modulation: [B or B T', 6, width], of each clip or each frame.
        rope: of time; None for blocks that attend within frames. parts: as in `SelfAttention`.
        """
        rows = modulation + self.scale_shift_table
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = rows.unbind(1)
        _, normed = adaptive_norm(x, epsilon=EPSILON, scale=scale, shift=shift)
        y = self.attn(normed, grid, rope, self.backend, parts, self.context)
        x, _ = adaptive_norm(x, y, gate=gate, norm=None)
        y = self.cross_attn(x, text, lengths, self.backend)
        x, normed = adaptive_norm(x, y, epsilon=EPSILON, scale=mlp_scale, shift=mlp_shift)
        x, _ = adaptive_norm(x, self.mlp(normed), gate=mlp_gate, norm=None)
        return x


class PatchEmbedder(nn.Module):
    """Latents [B, C, T, H, W] -> tokens [B, T' H' W', width], by a convolution that is one product per patch."""

    def __init__(self, channels: int, width: int, patch: Grid) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, width, patch, patch)

    def forward(self, latents: Tensor) -> Tensor:
        batch, channels, *sizes = latents.shape
        split = [n for size, p in zip(sizes, self.patch, strict=True) for n in (size // p, p)]
        patches = latents.reshape(batch, channels, *split).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class FinalLayer(nn.Module):
    """Norm, modulation, and one linear map to the latents of each token's patch."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, tokens, width], time [B or B T', width] -> [B, tokens, out]."""
        shift, scale = (time[:, None] + self.scale_shift_table).unbind(1)
        _, normed = adaptive_norm(x, epsilon=EPSILON, scale=scale, shift=shift)
        out: Tensor = self.linear(normed)
        return out


class TemporalRotation(nn.Module):
    """Holds `freqs` [D / 2], which published files have among the weights: the rotation over time is computed from its
    formula, 10000^(-2i / D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        rate = 1.0 / (10000 ** (torch.arange(0, channels, 2).float() / channels))
        self.channels = channels
        self.freqs = nn.Parameter(rate, requires_grad=False)

    def forward(self, grid: Grid, device: torch.device, dtype: torch.dtype) -> Rope:
        """The rotation of tokens of a grid, for computing in dtype."""
        table = torch.float64 if dtype == torch.float64 else torch.float32
        return Rope.make(grid, (self.channels, 0, 0), device=device, dtype=table)


class STDiT3(ModelMixin, ConfigMixin, PeftAdapterMixin):  # type: ignore[misc]
    """The transformer of Open-Sora 1.2 (opensora/models/stdit/stdit3.py at v1.2.0): blocks that attend within frames
    alternate with blocks that attend over time.

    Modulation and what it is made of (timesteps, frames a second) are computed in the dtype of their weights even under
    autocast. A clean frame's tokens are normed once in the last layer; the public code norms them twice there, in an
    output that nothing reads. Settings are those of the published config.json, where STDiT3-XL/2 is:

    hidden_size: channels of a token; depth: pairs of blocks; num_heads: of attention; mlp_ratio: channels within an MLP
    over those of a token; in_channels: of the latents; patch_size: latent frames, rows and columns under a token;
    caption_channels, model_max_length: width and number of text tokens; pred_sigma: whether the output has, beside the
    velocity, as many channels more, which sampling does not read; qk_norm: whether queries and keys are normed;
    input_sq_size: pixels a side of a square at which places have their nominal coordinates.

    Attribute group: a process group whose ranks divide the places of each frame, from the first block to the last
    layer: each holds all frames of its places. Over time, and to the caption, a rank attends alone; within frames
    attention exchanges what it needs, as in the public code with sequence parallelism. Every rank gets the whole
    output, and its part of all gradients, as with `DividedTokens`.
    """

    @register_to_config
    def __init__(
        self,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        in_channels: int = 4,
        patch_size: Sequence[int] = (1, 2, 2),
        caption_channels: int = 4096,
        model_max_length: int = 300,
        pred_sigma: bool = True,
        qk_norm: bool = True,
        input_sq_size: int = 512,
    ) -> None:
        super().__init__()
        if hidden_size % (4 * num_heads) or (hidden_size // num_heads) % 2:
            raise ValueError(f"hidden_size {hidden_size}: needs a multiple of 4 and of two per head ({num_heads})")
        time, height, width = patch_size
        self.patch: Grid = (time, height, width)
        self.group: ProcessGroup | None = None
        self.out_channels = in_channels * (2 if pred_sigma else 1)
        self.rope = TemporalRotation(hidden_size // num_heads)
        self.x_embedder = PatchEmbedder(in_channels, hidden_size, self.patch)
        self.t_embedder, self.fps_embedder = NumberEmbedder(hidden_size), NumberEmbedder(hidden_size)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.y_embedder = CaptionEmbedder(caption_channels, hidden_size, model_max_length)

        def blocks(temporal: bool) -> nn.ModuleList:
            return nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio, qk_norm, temporal) for _ in range(depth))

        self.spatial_blocks, self.temporal_blocks = blocks(False), blocks(True)
        self.final_layer = FinalLayer(hidden_size, time * height * width * self.out_channels)

    @property
    def blocks(self) -> list[Block]:
        """All blocks in the order in which they act: spatial, temporal, spatial, ..."""
        pairs = zip(self.spatial_blocks, self.temporal_blocks, strict=True)
        return [block for pair in pairs for block in pair]  # type: ignore[misc]

    def forward(
        self, noisy: Tensor, timestep: Tensor, text: Tensor, lengths: Tensor, fps: Tensor, pixels: tuple[int, int],
        noised: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The output [B, out channels, T, H, W] of latents [B, C, T, H, W], sides multiples of the patch.

        timestep: [B] in 0 to 1000. text: [B, L, caption_channels], of which each clip has lengths [B] tokens. fps: [B]
        frames a second. pixels: height and width of a frame. noised: bool [B, T'], False for a token frame that is
        clean, whose timestep is 0; None where all are noisy.
        """
        grid = self._grid(noisy)
        time, modulation = self._conditions(timestep, fps, noised)
        text = self.y_embedder(text)
        x = self.x_embedder(noisy)
        place = places(grid[1], grid[2], x.shape[-1], pixels, self.config.input_sq_size, x.device)
        x = (x.unflatten(1, (grid[0], -1)) + place.to(x.dtype)).flatten(1, 2)
        held, parts = grid, self.parts(grid)
        if parts is not None:
            x = by_frame(own_part, x, grid[0], parts)
            held = grid[0], x.shape[1] // grid[0], 1
        rope = self.rope(held, x.device, x.dtype)
        for block in self.blocks:
            x = block(x, text, lengths, modulation, held, rope if block.attn.temporal else None, parts)
        x = self.final_layer(x, time)
        return self._unpatched(x if parts is None else by_frame(gathered, x, grid[0], parts), grid)

    def parts(self, grid: Grid) -> Parts | None:
        """How the ranks of `group` divide the places of each frame of a grid (T', H', W'); None without one."""
        return None if self.group is None else Parts.of(self.group, (1, *grid[1:]), None)

    def _grid(self, noisy: Tensor) -> Grid:
        sizes = noisy.shape[2:]
        if any(n % p for n, p in zip(sizes, self.patch, strict=True)):
            raise ValueError(f"latents of {list(sizes)}: sides must be multiples of {list(self.patch)}")
        t, h, w = (n // p for n, p in zip(sizes, self.patch, strict=True))
        return t, h, w

    def _conditions(self, timestep: Tensor, fps: Tensor, noised: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embedded time [R, width] and what it makes of each block's modulation [R, 6, width], R = B or B T'."""
        with autocast(timestep.device.type, enabled=False):
            speed = self.fps_embedder(fps)
            time = self.t_embedder(timestep) + speed
            if noised is not None:
                still = self.t_embedder(torch.zeros_like(timestep)) + speed
                both = torch.cat([still, time])
                rows = noised * len(timestep) + torch.arange(len(timestep), device=timestep.device)[:, None]
                modulation = self.t_block(both)[rows.flatten()]
                return both[rows.flatten()], modulation.unflatten(1, (6, -1))
            return time, self.t_block(time).unflatten(1, (6, -1))

    def _unpatched(self, x: Tensor, grid: Grid) -> Tensor:
        """[B, T' H' W', patch x channels] -> [B, channels, T, H, W]."""
        x = x.unflatten(1, grid).unflatten(-1, (*self.patch, self.out_channels))
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
