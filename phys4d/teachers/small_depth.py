"""A small metric depth network, trained in seconds on simulated scenes other than those it labels.

It stands in for Depth Anything where no weights are at hand: metric, since camera and scenes come from the
same simulator, and of no use for any other video.
"""

import hashlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from phys4d.engine.config import Config
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.engine.progress import progress
from phys4d.engine.random import generator
from phys4d.kernels.geometry import depth_loss
from phys4d.teachers.interface import DepthKind, all_identities


class SmallDepthConfig(Config):
    """How the teacher is trained. steps: of Adam, on `batch` single frames each; width: first channel
    count."""

    seed: int = 0
    steps: int = Field(1000, ge=1)
    batch: int = Field(8, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    width: int = Field(32, ge=1)


class DepthUNet(nn.Module):
    """RGB in [-1, 1] and pixel position -> standardised log depth; any frame size.

    Three scales below the frame's own, which is only folded into channels (2 x 2 pixels each) and back: full
    resolution is where a U-Net on a CPU spends most of its time.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            (
                nn.Conv2d(4 * 5, width, 3, 1, 1),
                nn.Conv2d(width, 2 * width, 3, 2, 1),
                nn.Conv2d(2 * width, 4 * width, 3, 2, 1),
            )
        )
        self.up = nn.ModuleList((nn.Conv2d(6 * width, 2 * width, 3, 1, 1), nn.Conv2d(3 * width, width, 3, 1, 1)))
        self.out = nn.Conv2d(width, 4, 3, 1, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        """rgb [N, 3, H, W] -> [N, H, W]."""
        height, width = rgb.shape[-2:]
        rows = torch.linspace(-1, 1, height, device=rgb.device)[:, None].expand(height, width)
        columns = torch.linspace(-1, 1, width, device=rgb.device)[None].expand(height, width)
        position = torch.stack((rows, columns)).expand(len(rgb), 2, height, width)
        x = F.pad(torch.cat((rgb, position), dim=1), (0, width % 2, 0, height % 2), mode="replicate")
        x, skips = F.pixel_unshuffle(x, 2), []
        for down in self.down:
            x = F.gelu(down(x))
            skips.append(x)
        for up, skip in zip(self.up, skips[1::-1], strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = F.gelu(up(torch.cat((x, skip), dim=1)))
        return F.pixel_shuffle(self.out(x), 2)[:, 0, :height, :width]


class SmallDepth:
    """The trained teacher.

    network: its weights. mean, deviation: of log depth over its training pixels. scenes: identities of its
    training clips. training: settings and data, for the record.
    """

    depth_kind: DepthKind = "metric"

    def __init__(
        self,
        network: DepthUNet,
        mean: float,
        deviation: float,
        scenes: frozenset[str],
        training: dict[str, Any],
    ) -> None:
        self.network, self.mean, self.deviation = network.eval().requires_grad_(False), mean, deviation
        self.scenes, self.training = scenes, training

    def provenance(self) -> dict[str, Any]:
        return {"name": "small depth network", "training": self.training}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> depth float32 [T, H, W] metres, valid bool [T, H, W]
        (everywhere)."""
        with torch.no_grad():
            log_depth = self.network(_rgb(torch.from_numpy(video))) * self.deviation + self.mean
        depth = log_depth.exp().numpy()
        return depth, np.ones(depth.shape, bool)


def train(dataset: ClipDataset, config: SmallDepthConfig) -> SmallDepth:
    """Trains the teacher on all frames of a simulated dataset, the same weights for the same seed.

    Args:
        dataset: clips of one size with `depth` and `depth_valid`, opened with those arrays; all frames are
            held in memory.
        config: seed, length and size of the training.

    Raises:
        UserError: an empty dataset, clips of different sizes, or clips without depth.
    """
    video, depth, valid, scenes = _frames(dataset)
    log_depth = depth[valid].log()
    mean, deviation = float(log_depth.mean()), max(float(log_depth.std()), 1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.seed, "small depth", "weights").initial_seed())
        network = DepthUNet(config.width)
    draw = generator(config.seed, "small depth", "frames")
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    with progress("depth teacher", total=config.steps, unit="steps") as bar:
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min(1.0, 3 * (1 - step / config.steps) + 0.01)
            chosen = torch.randint(len(video), (config.batch,), generator=draw)
            rgb, target, mask = _rgb(video[chosen]), depth[chosen], valid[chosen]
            if torch.rand((), generator=draw) < 0.5:
                rgb, target, mask = rgb.flip(-1), target.flip(-1), mask.flip(-1)
            predicted = (network(rgb) * deviation + mean).exp()
            loss = depth_loss(predicted[None], target[None], mask[None])
            optimizer.zero_grad()
            (loss / deviation).backward()
            optimizer.step()
            bar.advance(1, **({"loss": loss.item()} if step % 20 == 0 else {}))
    names = "\n".join(sorted(scenes))
    training = {
        "folder": dataset.folder.name,
        "clips": len(dataset),
        "scenes_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "config": config.model_dump(),
    }
    return SmallDepth(network, mean, deviation, scenes, training)


def _rgb(video: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]."""
    return video.permute(0, 3, 1, 2).float() / 127.5 - 1


def _frames(dataset: ClipDataset) -> tuple[Tensor, Tensor, Tensor, frozenset[str]]:
    """All frames [N, H, W, 3], depth [N, H, W] and valid [N, H, W] of a dataset, and its scenes."""
    if len(dataset) == 0:
        raise UserError(f"{dataset.folder}: holds no clips: a depth teacher needs simulated clips to learn from")
    samples = [dataset[index] for index in range(len(dataset))]
    sizes = {sample.video.shape[1:3] for sample in samples}
    if len(sizes) > 1:
        raise UserError(f"{dataset.folder}: clips of several sizes {sorted(sizes)}: give the teacher one size")
    for sample in samples:
        if not {"depth", "depth_valid"} <= sample.arrays.keys():
            raise UserError(
                f"{dataset.folder}: clip {sample.key} has no true depth: simulate the teacher's scenes with truth"
            )
    video, depth, valid = (
        torch.from_numpy(np.concatenate(parts))
        for parts in (
            [sample.video for sample in samples],
            [sample.arrays["depth"] for sample in samples],
            [sample.arrays["depth_valid"] for sample in samples],
        )
    )
    return video, depth, valid, all_identities(dataset)
