"""The network of Video Depth Anything: DINOv2, and a DPT head whose motion modules look along the frames.

Source: Chen et al., Video Depth Anything, CVPR 2025; video_depth_anything/dpt_temporal.py, motion_module.py. The names
of all tensors are those of the published files.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phys4d.teachers.dinov2 import PATCH, DINOv2

WINDOW = 32
"""Frames that the motion modules look at together."""

_HEADS, _GROUPS = 8, 32


@dataclass(frozen=True)
class Size:
    """Sizes of a network.

    width, depth, heads: of DINOv2. after: blocks whose features the head takes. channels: of the four pyramid levels.
    features: channels of the head.
    """

    width: int
    depth: int
    heads: int
    after: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    features: int


SIZES = {
    "vits": Size(384, 12, 6, (2, 5, 8, 11), (48, 96, 192, 384), 64),
    "vitb": Size(768, 12, 12, (2, 5, 8, 11), (96, 192, 384, 768), 128),
    "vitl": Size(1024, 24, 16, (4, 11, 17, 23), (256, 512, 1024, 1024), 256),
}
"""The published sizes by name."""


class VideoDepthNetwork(nn.Module):
    """Depth of a window of frames.

    size: one of `SIZES`.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.pretrained = DINOv2(size.width, size.depth, size.heads)
        self.head = _Head(size)

    def forward(self, frames: Tensor, batch: int) -> Tensor:
        """Depth or disparity of consecutive frames, by the weights.

        frames: float [T, 3, H, W] with ImageNet's mean and deviation, T at most 32, sides multiples of 14.
        batch: frames that the parts take at once which look at single frames. Returns [T, H, W], at least 0.
        """
        levels = [self.pretrained(part, self.size.after) for part in frames.split(batch)]
        pyramid = self.head.pyramid([torch.cat(level) for level in zip(*levels, strict=True)])
        parts = [self.head.depth(*part) for part in zip(*(level.split(batch) for level in pyramid), strict=True)]
        return torch.cat(parts)[:, 0]


class _Head(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        one, two, three, four = size.channels
        features = size.features
        self.projects = nn.ModuleList(nn.Conv2d(size.width, channels, 1) for channels in size.channels)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(one, one, 4, 4),
                nn.ConvTranspose2d(two, two, 2, 2),
                nn.Identity(),
                nn.Conv2d(four, four, 3, 2, 1),
            )
        )
        self.motion_modules = nn.ModuleList(
            nn.ModuleDict({"temporal_transformer": _Motion(channels)}) for channels in (three, four, features, features)
        )
        reduced: dict[str, nn.Module] = {
            f"layer{level}_rn": nn.Conv2d(channels, features, 3, padding=1, bias=False)
            for level, channels in enumerate(size.channels, 1)
        }
        fused = {f"refinenet{level}": _Fusion(features) for level in range(1, 5)}
        last = [nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1), nn.ReLU()]
        self.scratch = nn.ModuleDict(reduced | fused)
        self.scratch["output_conv1"] = nn.Conv2d(features, features // 2, 3, padding=1)
        self.scratch["output_conv2"] = nn.Sequential(*last)

    def pyramid(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features of a window of frames, four levels of [T, width, h, w] -> what `depth` takes: levels 1 and 2 and the
        fusion of 3 and 4, [T, features, ...]."""
        levels = [
            resize(project(level))
            for project, resize, level in zip(self.projects, self.resize_layers, features, strict=True)
        ]
        levels[2], levels[3] = self._moved(0, levels[2]), self._moved(1, levels[3])
        one, two, three, four = (self.scratch[f"layer{at}_rn"](level) for at, level in enumerate(levels, 1))
        path = self._moved(2, self.scratch["refinenet4"](four, None, three.shape[2:]))
        return one, two, self._moved(3, self.scratch["refinenet3"](path, three, two.shape[2:]))

    def depth(self, one: Tensor, two: Tensor, path: Tensor) -> Tensor:
        """Levels of N frames -> [N, 1, H, W]."""
        path = self.scratch["refinenet2"](path, two, one.shape[2:])
        path = self.scratch["refinenet1"](path, one, [2 * side for side in one.shape[2:]])
        path = self.scratch["output_conv1"](path)
        return self.scratch["output_conv2"](_resized(path, [side * PATCH // 4 for side in one.shape[2:]]))

    def _moved(self, number: int, level: Tensor) -> Tensor:
        return self.motion_modules[number].get_submodule("temporal_transformer")(level)


def _resized(values: Tensor, size: "list[int] | torch.Size") -> Tensor:
    return F.interpolate(values, size, mode="bilinear", align_corners=True)


class _Fusion(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1, self.resConfUnit2 = (
            nn.ModuleDict({name: nn.Conv2d(features, features, 3, padding=1) for name in ("conv1", "conv2")})
            for _ in range(2)
        )

    def forward(self, path: Tensor, level: Tensor | None, size: "list[int] | torch.Size") -> Tensor:
        if level is not None:
            path = path + _refined(self.resConfUnit1, level)
        return self.out_conv(_resized(_refined(self.resConfUnit2, path), size))


def _refined(unit: nn.ModuleDict, values: Tensor) -> Tensor:
    return values + unit["conv2"](unit["conv1"](values.relu()).relu())


class _Motion(nn.Module):
    """Each place of a level looks along the frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList((_MotionBlock(channels),))

    def forward(self, level: Tensor) -> Tensor:
        places = self.proj_in(self.norm(level).permute(2, 3, 0, 1).flatten(0, 1))  # [h * w, T, channels]
        moved = self.proj_out(self.transformer_blocks[0](places)).unflatten(0, level.shape[2:])
        return level + moved.permute(2, 3, 0, 1)


class _MotionBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(_FrameAttention(channels) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        widened = nn.ModuleDict({"proj": nn.Linear(channels, 8 * channels)})
        self.ff = nn.ModuleDict({"net": nn.ModuleDict({"0": widened, "2": nn.Linear(4 * channels, channels)})})
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, places: Tensor) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            places = places + attention(norm(places))
        hidden, gate = self.ff.get_submodule("net.0.proj")(self.ff_norm(places)).chunk(2, dim=-1)
        return places + self.ff.get_submodule("net.2")(hidden * F.gelu(gate))


class _FrameAttention(nn.Module):
    """Attention along the frames, which have absolute positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList((nn.Linear(channels, channels),))
        self.pos_encoder = nn.Module()
        angles = torch.arange(WINDOW)[:, None] * torch.exp(torch.arange(0, channels, 2) * (-math.log(1e4) / channels))
        self.pos_encoder.register_buffer("pe", torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)[None])

    def forward(self, places: Tensor) -> Tensor:
        placed = places + self.pos_encoder.get_buffer("pe")[:, : places.shape[1]]
        q, k, v = (
            make(placed).unflatten(2, (_HEADS, -1)).transpose(1, 2) for make in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
