"""A small metric depth network, trained in seconds on simulated scenes other than those that it labels.

It replaces Depth Anything where no weights are at hand. Its depth is metric because the camera and the scenes of its
training clips come from the simulator that made the labelled clips. For any other video its depth means nothing.
"""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from phys4d.engine.config import Config
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.engine.progress import progress
from phys4d.engine.random import generator
from phys4d.kernels.geometry import depth_loss
from phys4d.mixture import expect_metric
from phys4d.teachers.depth_unet import DepthUNet
from phys4d.teachers.interface import DepthKind, TeacherSpec, default_device
from phys4d.teachers.scenes import all_identities

_FRAMES = 64  # that the network takes at once when it labels


class SmallDepthConfig(Config):
    """How the teacher is trained.

    seed: of initial weights and batches. steps: of AdamW, on `batch` single frames each. learning_rate: its maximum.
    width: channels of the first layer.
    """

    seed: int = 0
    steps: int = Field(400, ge=1)
    batch: int = Field(8, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    width: int = Field(32, ge=1)


class SmallDepth:
    """A U-Net that predicts log depth, on torch's accelerator where there is one.

    config: how it is trained. scenes: folder of a simulated dataset with truth, clips of one size; `prepare` holds all
    its frames in memory.

    Raises UserError for an empty dataset, clips of different sizes, or clips without true depth.
    """

    depth_kind: DepthKind = "metric"
    title = "small depth network"

    def __init__(self, config: SmallDepthConfig, scenes: Path) -> None:
        self.config, self.device = config, default_device()
        self.dataset = ClipDataset(scenes, arrays=("depth", "depth_valid"))
        self.dataset.size()
        for index in range(len(self.dataset)):
            row = self.dataset.row(index)
            if "truth" not in row["members"]:
                raise UserError(
                    f"{scenes}: clip {row['key']} has no true depth: simulate the teacher's scenes with truth"
                )
        self.dataset[0]  # raises where its truth holds no depth
        expect_metric(self.dataset, np.arange(len(self.dataset)))
        self.scenes = all_identities(self.dataset)
        self._one_thread = threading.Lock()

    def prepare(self) -> None:
        """Trains the network; on a CPU the same weights for the same seed."""
        video, depth, valid = self._frames()
        log_depth = depth[valid].log()
        # Mean and standard deviation of log depth over the training pixels.
        self.mean, self.deviation = float(log_depth.mean()), max(float(log_depth.std()), 1e-3)
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(config.seed, "small depth", "weights").initial_seed())
            self.network = DepthUNet(config.width).to(self.device)
        draw = generator(config.seed, "small depth", "frames")
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.learning_rate)
        with progress("depth teacher", total=config.steps, unit="steps") as bar:
            for step in range(config.steps):
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * min(1.0, 3 * (1 - step / config.steps) + 0.01)
                chosen = torch.randint(len(video), (config.batch,), generator=draw)
                frames, target, mask = (array[chosen].to(self.device) for array in (video, depth, valid))
                rgb = _rgb(frames)
                if torch.rand((), generator=draw) < 0.5:
                    rgb, target, mask = rgb.flip(-1), target.flip(-1), mask.flip(-1)
                loss = depth_loss(self._depth(rgb)[None], target[None], mask[None])
                optimizer.zero_grad()
                (loss / self.deviation).backward()
                optimizer.step()
                bar.advance(1, **({"loss": loss.item()} if step % 20 == 0 else {}))
        self.network.eval().requires_grad_(False)

    def _origin(self) -> dict[str, Any]:
        """What the weights depend on."""
        names = "\n".join(sorted(self.scenes))
        training = {
            "folder": self.dataset.folder.name,
            "clips": len(self.dataset),
            "scenes_sha256": hashlib.sha256(names.encode()).hexdigest(),
        }
        return {
            "name": self.title,
            "versions": {"torch": torch.__version__},
            "settings": self.config.model_dump(),
            "device": self.device.type,
            "training": training,
        }

    def trained(self) -> bytes:
        scale = {"scale": torch.tensor((self.mean, self.deviation), dtype=torch.float64)}
        weights = {f"network.{name}": value.cpu() for name, value in self.network.state_dict().items()}
        return safetensors.torch.save(scale | weights, {"origin": json.dumps(self._origin(), sort_keys=True)})

    def restore(self, data: bytes) -> bool:
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            if json.loads(header["__metadata__"]["origin"]) != self._origin():
                return False
            tensors = safetensors.torch.load(data)
            network = DepthUNet(self.config.width)
            self.mean, self.deviation = tensors.pop("scale").tolist()
            network.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items()})
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
            return False
        self.network = network.to(self.device).eval().requires_grad_(False)
        return True

    def provenance(self) -> dict[str, Any]:
        weights = hashlib.sha256(repr((self.mean, self.deviation)).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            weights.update(name.encode())
            weights.update(tensor.cpu().numpy().tobytes())
        return self._origin() | {"weights_sha256": weights.hexdigest()}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> depth float32 [T, H, W] metres, valid bool [T, H, W] (everywhere)."""
        with self._one_thread, torch.no_grad():
            parts = [self._depth(_rgb(part.to(self.device))).cpu() for part in torch.from_numpy(video).split(_FRAMES)]
        depth = torch.cat(parts).numpy()
        return depth, np.ones(depth.shape, bool)

    def _depth(self, rgb: Tensor) -> Tensor:
        """rgb [N, 3, H, W] in [-1, 1] -> metres [N, H, W]."""
        return (self.network(rgb) * self.deviation + self.mean).exp()

    def _frames(self) -> tuple[Tensor, Tensor, Tensor]:
        """All frames uint8 [N, H, W, 3], depth [N, H, W] metres and valid [N, H, W] of the training scenes."""
        samples = [self.dataset[index] for index in range(len(self.dataset))]
        return (
            torch.from_numpy(np.concatenate([sample.video for sample in samples])),
            torch.from_numpy(np.concatenate([sample.arrays["depth"] for sample in samples])),
            torch.from_numpy(np.concatenate([sample.arrays["depth_valid"] for sample in samples])),
        )


def _rgb(video: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]."""
    return video.permute(0, 3, 1, 2).float() / 127.5 - 1


SPEC = TeacherSpec(SmallDepthConfig, SmallDepth, needs=("scenes",))
