"""The network of SEA-RAFT, small (ResNet-18) and medium or large (ResNet-34), in the key layout of its published files.

A first flow comes from the features of both frames together; each update looks up correlations around where the flow
ends. Beside the flow each pixel has a mixture of two Laplace distributions of its error.

Source: SEA-RAFT, ECCV 2024, arXiv 2405.14793; core/raft.py, extractor.py, update.py, corr.py.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8
"""Pixels of a frame for each feature."""

BLOCKS = {"resnet18": (2, 2, 2), "resnet34": (3, 4, 6)}
"""Residual blocks of each stage, by the name of the features."""

_WIDTH, _STAGES = 128, (64, 128, 256)
_LEVELS, _RADIUS = 4, 4
_LARGEST_LOG_SCALE = 10.0


class SEARAFT(nn.Module):
    """Flow between pairs of frames, and the error that the network expects of it.

    features: a name in `BLOCKS`.
    """

    def __init__(self, features: str) -> None:
        super().__init__()
        blocks = BLOCKS[features]
        self.cnet, self.fnet = _Features(6, blocks), _Features(3, blocks)
        self.init_conv = nn.Conv2d(2 * _WIDTH, 2 * _WIDTH, 3, padding=1)
        self.upsample_weight = _two_convolutions(STRIDE**2 * 9, last=1)
        self.flow_head = _two_convolutions(6, last=3)
        self.update_block = _Update()

    def forward(self, first: Tensor, second: Tensor, updates: int) -> tuple[Tensor, Tensor]:
        """Flow from the first frames to the second.

        first, second: float [N, 3, H, W] in [-1, 1], sides at least 128. updates: of the flow, one after another.
        Returns flow [N, 2, H, W] in pixels, and the mean absolute error [N, H, W] that the network expects, in pixels.
        """
        height, width = first.shape[2:]
        rows, columns = -height % STRIDE, -width % STRIDE
        sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        first, second = (F.pad(frames, sides, mode="replicate") for frames in (first, second))
        state, context = self.init_conv(self.cnet(torch.cat((first, second), dim=1))).split(_WIDTH, dim=1)
        pyramid = _correlations(self.fnet(first), self.fnet(second))
        flow, mixture = self.flow_head(state).split((2, 4), dim=1)
        for _ in range(updates):
            state = self.update_block(state, context, flow, _around(pyramid, flow))
            change, mixture = self.flow_head(state).split((2, 4), dim=1)
            flow = flow + change
        weights = (0.25 * self.upsample_weight(state)).unflatten(1, (9, STRIDE, STRIDE)).softmax(dim=1)
        inside = slice(sides[2], sides[2] + height), slice(sides[0], sides[0] + width)
        fine = _enlarged(torch.cat((STRIDE * flow, mixture), dim=1), weights)[:, :, *inside]
        return fine[:, :2], _expected_error(fine[:, 2:])


def _two_convolutions(channels: int, last: int) -> nn.Sequential:
    first = nn.Conv2d(_WIDTH, 2 * _WIDTH, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(2 * _WIDTH, channels, last, padding=last // 2))


def _expected_error(mixture: Tensor) -> Tensor:
    """Logits of both parts and the logarithms of their scales, [N, 4, H, W] -> the mean |error| [N, H, W] in pixels.

    The second part has a scale of 1 pixel, the first one a larger one (equations 5 to 7 of the paper).
    """
    likely = mixture[:, :2].softmax(dim=1)
    return likely[:, 0] * mixture[:, 2].clamp(0, _LARGEST_LOG_SCALE).exp() + likely[:, 1]


def _enlarged(values: Tensor, weights: Tensor) -> Tensor:
    """values [N, C, h, w] -> [N, C, 8 h, 8 w]: each a convex combination of the 3 x 3 values around it."""
    around = F.unfold(values, 3, padding=1).unflatten(1, (values.shape[1], 9)).unflatten(3, values.shape[2:])
    return torch.einsum("nckhw,nkabhw->nchawb", around, weights).flatten(4).flatten(2, 3)


def _correlations(first: Tensor, second: Tensor) -> list[Tensor]:
    """Features [N, C, h, w] of both frames -> for each level their products [N * h * w, 1, h', w']."""
    pyramid, scaled = [], first.flatten(2).mT / math.sqrt(first.shape[1])
    for _ in range(_LEVELS):
        pyramid.append((scaled @ second.flatten(2)).flatten(0, 1).unflatten(1, (1, *second.shape[2:])))
        second = F.interpolate(second, scale_factor=0.5, mode="bilinear", align_corners=False)
    return pyramid


def _around(pyramid: list[Tensor], flow: Tensor) -> Tensor:
    """The products in the 9 x 9 places around the end of the flow [N, 2, h, w], on all levels: [N, 324, h, w]."""
    height, width = flow.shape[2:]
    rows, columns = torch.meshgrid(*(torch.arange(side, device=flow.device) for side in (height, width)), indexing="ij")
    ends = (flow + torch.stack((columns, rows))).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    steps = torch.arange(-_RADIUS, _RADIUS + 1, device=flow.device)
    window = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)  # u along the first axis, as RAFT has it
    found = []
    for level, products in enumerate(pyramid):
        places = ends / 2**level + window
        grid = 2 * places / (places.new_tensor(products.shape[:1:-1]) - 1) - 1
        found.append(F.grid_sample(products, grid, align_corners=True).reshape(len(flow), height, width, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2).contiguous()


class _Features(nn.Module):
    """A ResNet down to an eighth of the frame."""

    def __init__(self, channels: int, blocks: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, _STAGES[0], 7, 2, 3), nn.BatchNorm2d(_STAGES[0])
        one, two, three = _STAGES
        self.layer1 = _stage(blocks[0], one, one, stride=1)
        self.layer2 = _stage(blocks[1], one, two, stride=2)
        self.layer3 = _stage(blocks[2], two, three, stride=2)
        self.final_conv = nn.Conv2d(three, 2 * _WIDTH, 1)

    def forward(self, frames: Tensor) -> Tensor:
        features = self.bn1(self.conv1(frames)).relu()
        return self.final_conv(self.layer3(self.layer2(self.layer1(features))))


def _stage(blocks: int, before: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Residual(before, width, stride), *(_Residual(width, width, 1) for _ in range(blocks - 1)))


class _Residual(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.bn3 = nn.BatchNorm2d(width)  # published under both names
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride), self.bn3)

    def forward(self, features: Tensor) -> Tensor:
        changed = self.bn2(self.conv2(self.bn1(self.conv1(features)).relu())).relu()
        return (self.downsample(features) + changed).relu()


class _Update(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Motion()
        self.refine = nn.ModuleList(_ConvNeXt(3 * _WIDTH) for _ in range(2))

    def forward(self, state: Tensor, context: Tensor, flow: Tensor, products: Tensor) -> Tensor:
        motion = self.encoder(flow, products)
        for block in self.refine:
            state = block(torch.cat((state, context, motion), dim=1))
        return state


class _Motion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        window = _LEVELS * (2 * _RADIUS + 1) ** 2
        self.convc1 = nn.Conv2d(window, 2 * _WIDTH, 1)
        self.convc2 = nn.Conv2d(2 * _WIDTH, _WIDTH + _WIDTH // 2, 3, padding=1)
        self.convf1 = nn.Conv2d(2, _WIDTH, 7, padding=3)
        self.convf2 = nn.Conv2d(_WIDTH, _WIDTH // 2, 3, padding=1)
        self.conv = nn.Conv2d(2 * _WIDTH, _WIDTH - 2, 3, padding=1)

    def forward(self, flow: Tensor, products: Tensor) -> Tensor:
        products = self.convc2(self.convc1(products).relu()).relu()
        moved = self.convf2(self.convf1(flow).relu()).relu()
        return torch.cat((self.conv(torch.cat((products, moved), dim=1)).relu(), flow), dim=1)


class _ConvNeXt(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, 4 * _WIDTH), nn.Linear(4 * _WIDTH, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.final = nn.Conv2d(channels, _WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        changed = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(features).permute(0, 2, 3, 1)))))
        return self.final(features + (self.gamma * changed).permute(0, 3, 1, 2))
