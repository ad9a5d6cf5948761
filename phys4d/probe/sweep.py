"""The sweep: at each noise level all blocks are tapped at once, and one linear map a set of blocks is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.progress import Bar, progress
from phys4d.evaluate.metrics import ClipMean, Estimate
from phys4d.models.backbone import Precision
from phys4d.models.lora import POLICY, without
from phys4d.models.placement import place
from phys4d.models.world import WorldModel
from phys4d.probe.opening import Encoded, Probed, encoded_clips
from phys4d.probe.ridge import Ridge

MOVING = 0.3
"""Pixels per frame above which a token counts as moving."""
ERRORS = ("depth", "motion", "moving")
"""Names of the errors: see `errors_of`."""


@dataclass(frozen=True)
class Settings:
    """How a model is probed.

    sigmas: noise levels. strength: of the ridge penalty. seed: of the noise. precision: of the transformer. device:
    that computes.
    """

    sigmas: tuple[float, ...]
    strength: float
    seed: int
    precision: Precision
    device: torch.device


@dataclass(frozen=True)
class Cell:
    """What a set of blocks knows at a noise level; errors: by name, over the held-out clips."""

    taps: tuple[int, ...]
    sigma: float
    errors: dict[str, Estimate]


@dataclass(frozen=True)
class Sweep:
    """All cells; constant: the errors of the mean of the fitted clips' labels, which reads no token; fitted, held_out:
    numbers of clips."""

    cells: tuple[Cell, ...]
    constant: dict[str, Estimate]
    fitted: int
    held_out: int


@torch.no_grad()
def sweep(probed: Probed, settings: Settings) -> Sweep:
    """Fits and measures every set of blocks at every noise level.

    probed: the model and its clips. settings: see there.

    Raises UserError for clips that cannot be used, and where no token has a label.
    """
    model, parallel = probed.model.eval(), Parallel.alone(settings.device)
    model.backbone.precision = settings.precision
    model.backbone.tap(tuple(sorted({k for taps in probed.sets for k in taps})))
    model.use_attention("auto", parallel)
    place(model, parallel)
    clips = encoded_clips(probed, settings.seed, settings.device)
    for held_out, what in ((False, "fitted"), (True, "held-out")):
        if not any(bool(clip.targets.known.any()) for clip in clips if clip.held_out == held_out):
            raise UserError(f"{probed.data}: no token of the {what} clips has half of its depth and flow valid")
    cells: list[Cell] = []
    with progress("probe", total=len(clips) * len(settings.sigmas), unit="evaluations") as bar:
        for sigma in settings.sigmas:
            cells += _level(probed, settings, clips, sigma, bar)
    fitted = [clip for clip in clips if not clip.held_out]
    constant = _constant(fitted, [clip for clip in clips if clip.held_out])
    return Sweep(tuple(cells), constant, len(fitted), len(clips) - len(fitted))


def _level(probed: Probed, settings: Settings, clips: Sequence[Encoded], sigma: float, bar: Bar) -> list[Cell]:
    """The cells of one noise level."""
    model, device = probed.model, settings.device
    ridges = [Ridge(model.backbone.width * len(taps), 3, device) for taps in probed.sets]
    for clip in (clip for clip in clips if not clip.held_out):
        tokens, known = features(model, clip, sigma, device), clip.targets.known[0]
        y = clip.targets.values[0, known].to(device)
        for taps, ridge in zip(probed.sets, ridges, strict=True):
            ridge.add(_chosen(tokens, taps)[known.to(device)], y)
        bar.advance()
    maps = [ridge.solve(settings.strength) for ridge in ridges]
    means = [ClipMean() for _ in maps]
    for clip in (clip for clip in clips if clip.held_out):
        tokens = features(model, clip, sigma, device)
        for taps, (weights, intercept), mean in zip(probed.sets, maps, means, strict=True):
            mean.add(errors_of((_chosen(tokens, taps) @ weights + intercept).cpu(), clip))
        bar.advance()
    return [Cell(taps, sigma, mean.summary()) for taps, mean in zip(probed.sets, means, strict=True)]


def features(model: WorldModel, clip: Encoded, sigma: float, device: torch.device) -> dict[int, Tensor]:
    """Tokens [tokens, width] of each tapped block, normed as heads norm them (LayerNorm without weights), with the
    policy's adapter off.

    model: placed. clip: one clip. sigma: noise level. device: that computes.
    """
    level = torch.full((1,), sigma, device=device)
    clean, noise, text, first = (x.to(device) for x in (clip.clean, clip.noise, clip.text, clip.first))
    with without(model.backbone.transformer, POLICY):
        tokens = list(model.backbone(model.noised(clean, noise, level), level, text, first).hidden)
    for number, x in enumerate(tokens):  # one by one, so that not all blocks are there twice
        tokens[number] = F.layer_norm(x[0], x.shape[-1:])
    return dict(zip(model.backbone.taps, tokens, strict=True))


def _chosen(tokens: dict[int, Tensor], taps: tuple[int, ...]) -> Tensor:
    return torch.cat([tokens[k] for k in taps], 1) if len(taps) > 1 else tokens[taps[0]]


def errors_of(predicted: Tensor, clip: Encoded) -> dict[str, Any]:
    """Errors of one clip over its known tokens, each [1], NaN where there is none: "depth", mean |difference of log
    depth|; "motion", mean length of the difference of (du, dv) in pixels per frame; "moving", the same over tokens that
    move by more than `MOVING`.

    predicted: [tokens, 3], as `Targets.values`.
    """
    truth, known = clip.targets.values[0], clip.targets.known[0]
    difference = (predicted - truth)[known]
    motion, moving = difference[:, 1:].norm(dim=1), truth[known, 1:].norm(dim=1) > MOVING
    return {
        "depth": difference[:, 0].abs().mean()[None],
        "motion": motion.mean()[None],
        "moving": motion[moving].mean()[None],
    }


def _constant(fitted: Sequence[Encoded], held_out: Sequence[Encoded]) -> dict[str, Estimate]:
    """Errors of the mean label of the fitted clips."""
    labels = torch.cat([clip.targets.values[clip.targets.known] for clip in fitted])
    mean = ClipMean()
    for clip in held_out:
        mean.add(errors_of(labels.mean(0).expand(clip.targets.known.shape[1], 3), clip))
    return mean.summary()
