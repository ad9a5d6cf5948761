"""A world model in closed form on clips of 2 x 2 pixels, and the geometry loss by loops in fp64."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from phys4d.batch import Batch
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig
from phys4d.models import backbone as models_backbone
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.interface import Grid, Prediction
from phys4d.models.spec import Parts
from phys4d.models.world import WorldModel
from phys4d.stages import pretrain, spec

SEED, FRAMES, SIDE = 5, 3, 2
NO_CAPTION = -0.3  # token of an empty caption
BASE, FINETUNED, POLICY = 0.3, 0.2, 0.1  # slopes of the velocity: the backbone's and what each adapter adds


class Doubling(nn.Module):
    """A codec whose latents are twice the pixels."""

    channels = 3
    temporal_stride = spatial_stride = 1
    chunked = ()
    image_apart = False

    def encode(self, video: Tensor) -> Tensor:
        return 2 * video

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2


class Adapters(nn.Module, BaseTunerLayer):
    """The adapters' slopes; its active adapters act."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self._active_adapter = ["finetune", "reinforce"]
        self.finetune = nn.Parameter(torch.tensor(FINETUNED))
        self.reinforce = nn.Parameter(torch.tensor(POLICY))

    def slope(self) -> Tensor:
        return sum((getattr(self, name) for name in self._active_adapter), torch.zeros(()))


class Transformer(nn.Module):
    """One slope, and the adapters'."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.tensor(BASE))
        self.adapters = Adapters()
        self.peft_config: dict[str, Any] = {"finetune": None, "reinforce": None}


class Backbone(nn.Module):
    """velocity = slope * noisy + sigma + text, 0 on the first frame; its one hidden number is the slope."""

    width = 1
    lora_targets = ("slope",)
    blocks = ()
    diffusion_loss = models_backbone.Backbone.diffusion_loss
    sigmas = models_backbone.Backbone.sigmas
    training_sigma = models_backbone.Backbone.training_sigma
    unconditional = models_backbone.Backbone.unconditional
    patch = (1, 1, 1)
    held = 1

    def __init__(self) -> None:
        super().__init__()
        self.transformer = Transformer()
        self.precision = "fp32"

    def forward(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None = None) -> Prediction:
        slope = self.transformer.base + self.transformer.adapters.slope()
        s = sigma.view(-1, 1, 1, 1, 1)
        velocity = slope * noisy + s + text.mean((1, 2)).view(-1, 1, 1, 1, 1)
        velocity = torch.cat([torch.zeros_like(velocity[:, :, :1]), velocity[:, :, 1:]], 2)
        return Prediction(velocity, noisy - s * velocity, (slope.expand(len(noisy), 1, 1),))

    def hidden(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None = None) -> tuple[Tensor, ...]:
        return self(noisy, sigma, text, first).hidden


class Heads(nn.Module):
    """depth = near (1 + |first channel| + sigma + slope); motion = shift tanh(noisy)."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Parameter(torch.tensor(0.8))
        self.shift = nn.Parameter(torch.tensor(0.9))

    def forward(self, hidden: tuple[Tensor, ...], noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        s = sigma.view(-1, 1, 1, 1) + hidden[0].view(-1, 1, 1, 1)
        return self.near * (1 + noisy[:, 0].abs() + s), self.shift * noisy[:, :, :-1].tanh()


class Words(nn.Module):
    """Text is part of the batches here."""

    width = 1


@dataclass
class Source:
    """In place of `Clips`: the first clips of these arrays, whatever the step; `asked`: what it was asked for."""

    video: Tensor
    arrays: dict[str, Tensor]
    names: tuple[str, ...] = ()
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    affine: tuple[bool, ...] = ()

    def fetch(self, *place: Any) -> None:
        """Nothing to read."""

    def no_caption(self, device: torch.device) -> Tensor:
        """Tokens of the empty caption."""
        return torch.full((3, 1), NO_CAPTION)

    def batch(
        self, size: int, parallel: Parallel, seed: int, stage: str, step: int, update: int | None = None, *,
        pixels: bool = False,
    ) -> Batch:  # fmt: skip
        self.asked.append((size, seed, stage, step))
        places = parallel.local(range(size))
        chosen = [place % len(self.video) for place in places]
        return Batch(
            video=self.video[chosen],
            text=0.05 * torch.tensor(chosen).view(-1, 1, 1).expand(-1, 3, 1),
            arrays={name: self.arrays[name][chosen] for name in self.names},
            intrinsics=torch.eye(3).expand(len(places), FRAMES, 3, 3),
            rng_keys=[(seed, stage, step, place) for place in places],
            share=parallel.share,
            affine=tuple(self.affine[place] for place in chosen) if self.affine else (),
        )


def _labels(draw: torch.Generator) -> dict[str, Tensor]:
    """Two clips' labels; what is not valid is far off, so that it shows where it is counted."""
    pixels, later = (2, FRAMES, SIDE, SIDE), (2, FRAMES - 1, SIDE, SIDE)

    def mask(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=draw) < 0.7

    labels = {name: mask(later) for name in ("flow_valid", "dz_valid", "visible")}
    labels["depth_valid"] = mask(pixels)
    moving = torch.zeros(later, dtype=torch.bool)
    moving[0, 0, 0, 0] = moving[1, 1, 1, 0] = True  # one pixel of one pair of frames in each clip
    depth, motion = 1 + torch.rand(pixels, generator=draw), torch.randn(2, 3, *later[1:], generator=draw)
    motion[:, :2] *= torch.where(moving, 1.0, 0.02).unsqueeze(1)
    motion[0, :2, 0, 0, 0], motion[1, :2, 1, 1, 0] = torch.tensor([0.25, -0.2]), torch.tensor([-0.28, 0.2])
    valid = torch.stack([labels["flow_valid"], labels["flow_valid"], labels["dz_valid"]], 1) | moving[:, None]
    labels["flow_valid"] = labels["flow_valid"] | moving
    labels["depth"] = torch.where(labels["depth_valid"], depth, 77.0)
    labels["motion"] = torch.where(valid, motion, torch.tensor([0.01, 0.01, 55.0]).view(1, 3, 1, 1, 1))
    return labels | {"moving": moving}


@pytest.fixture
def source() -> Source:
    """Two clips and their labels."""
    draw = torch.Generator().manual_seed(1)
    video = torch.rand(2, 3, FRAMES, SIDE, SIDE, generator=draw) * 2 - 1
    return Source(video, _labels(draw))


@pytest.fixture
def world() -> WorldModel:
    """The model in closed form, with settings that are not the defaults."""
    config = ModelConfig(
        taps=(0,), heads=HeadConfig(kind="linear", width=8), probe_sigma=0.07, sampling_shift=2.5, sampling_steps=3
    )
    parts = Parts(Backbone(), Doubling(), Words())  # type: ignore[arg-type]
    model = WorldModel(config, Grid(FRAMES, SIDE, SIDE, (1, 1, 1)), parts, seed=0)  # type: ignore[arg-type]
    model.heads = Heads()  # type: ignore[assignment]
    return model


@pytest.fixture
def objective(world: WorldModel, source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[..., Any]:
    """Makes a stage's objective over that model and those clips."""

    def make(stage: ModuleType, parallel: Parallel | None = None, **settings: Any) -> Any:
        def clips(parts: Any, arrays: tuple[str, ...], *rest: Any, on_bad: str, affine_depth: bool) -> Source:
            assert [part.folder for part in parts] == [tmp_path] and affine_depth == (stage is pretrain)
            source.names = tuple(arrays)
            return source

        monkeypatch.setattr(spec, "Clips", clips)
        name = "".join(word.capitalize() for word in stage.__name__.rpartition(".")[2].split("_"))
        config = getattr(stage, f"{name}Config")(
            data=tmp_path, optimizer=OptimizerConfig(learning_rate=1e-3), loop=LoopConfig(steps=1), **settings
        )
        return getattr(stage, f"{name}Objective")(config, world, parallel or Parallel.alone(), SEED)

    return make


@pytest.fixture
def minimised() -> Callable[[Tensor], Tensor]:
    """Stands for the optimizer: keeps losses in its attribute `losses`, and leaves gradients in place."""
    losses: list[float] = []

    def optimizer_step(parts: Sequence[Callable[[], Tensor]]) -> Tensor:
        loss = torch.stack([part() for part in parts]).sum()
        losses.append(loss.item())
        loss.backward()
        return loss.detach()

    optimizer_step.losses = losses  # type: ignore[attr-defined]
    return optimizer_step


@pytest.fixture
def geometry_by_hand() -> Callable[..., dict[str, float]]:
    """The terms of the geometry loss and their sum, pixel by pixel."""
    return _geometry_by_hand


def _geometry_by_hand(
    depth: Tensor, motion: Tensor, labels: dict[str, Tensor], moving: Tensor, *, weights: dict[str, float],
    moving_depth: float, moving_motion: float, margin: int,
) -> dict[str, float]:  # fmt: skip
    clips, frames, rows, columns = depth.shape
    z, m = depth.double().tolist(), motion.double().tolist()
    sums: dict[str, list[list[float]]] = {
        name: [[0.0, 0.0] for _ in range(clips)] for name in ("depth", "flow", "dz", "warp")
    }

    def near(b: int, t: int, y: int, x: int) -> bool:
        reach = range(-margin, margin + 1)
        there = [(y + i, x + j) for i in reach for j in reach if 0 <= y + i < rows and 0 <= x + j < columns]
        return any(bool(moving[b, t, i, j]) for i, j in there)

    def add(name: str, b: int, weight: float, error: float) -> None:
        sums[name][b][0] += weight * error
        sums[name][b][1] += weight

    for b in range(clips):
        for t in range(frames):
            for y in range(rows):
                for x in range(columns):
                    if labels["depth_valid"][b, t, y, x]:
                        weight = 1 + moving_depth * near(b, min(t, frames - 2), y, x)
                        add("depth", b, weight, abs(math.log(z[b][t][y][x] / float(labels["depth"][b, t, y, x]))))
                    if t == frames - 1:
                        continue
                    weight = 1 + moving_motion * near(b, t, y, x)
                    off = [abs(m[b][c][t][y][x] - float(labels["motion"][b, c, t, y, x])) for c in range(3)]
                    if labels["flow_valid"][b, t, y, x]:
                        add("flow", b, weight, off[0] + off[1])
                    if labels["dz_valid"][b, t, y, x]:
                        add("dz", b, weight, off[2])
                    u, v = x + m[b][0][t][y][x], y + m[b][1][t][y][x]
                    if "visible" in labels and labels["visible"][b, t, y, x]:
                        if not (0 <= u <= columns - 1 and 0 <= v <= rows - 1):
                            continue
                        i, j = min(int(v), rows - 2), min(int(u), columns - 2)
                        p, q = v - i, u - j
                        w = z[b][t + 1]
                        inverse = (1 - p) * ((1 - q) / w[i][j] + q / w[i][j + 1])
                        inverse += p * ((1 - q) / w[i + 1][j] + q / w[i + 1][j + 1])
                        add("warp", b, weight, abs(1 / inverse - z[b][t][y][x] - m[b][2][t][y][x]))
    terms = {n: sum(s / w if w else 0.0 for s, w in each) / clips for n, each in sums.items()}
    return terms | {"total": sum(weights[name] * terms[name] for name in weights)}
