"""Stage `codec`: its loss and its gradient against fp64 by hand, and what it trains."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phys4d.engine.errors import UserError
from phys4d.engine.random import normal
from phys4d.models.world import WorldModel
from phys4d.stages import codec
from tests.stages.objectives.conftest import Doubling

SEED, STEP, GAIN = 5, 3, 0.7
CHANGED, EDGES, NOISE = 2.5, 0.4, 0.2


class Gain(Doubling):
    """What is decoded is the clip times a gain, and the noise."""

    own = True

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def forward(self, video: Tensor, noise: Tensor, scale: float) -> Tensor:
        return self.gain * video + scale * noise


def expected(source: Any, gain: float, clips: int) -> float:
    """The loss over the first clips: of pixels, more where they differ from frame 0 by more than 0.1, and of edges."""
    pixels, edges, counts = 0.0, [0.0, 0.0], [0, 0]
    for clip in range(clips):
        video = source.video[clip].double()
        noise = normal(video.shape, SEED, "codec", STEP, clip, "noise").double()
        error = gain * video + NOISE * noise - video
        weight = 1 + CHANGED * ((video - video[:, :1]).abs().amax(0) > 0.1).double()
        pixels += float((weight * error.abs()).sum())
        across = (error[..., 1:] - error[..., :-1]).abs(), (error[..., 1:, :] - error[..., :-1, :]).abs()
        for axis, step in enumerate(across):
            edges[axis] += float(step.sum())
            counts[axis] += step.numel()
    return pixels / (clips * source.video[0].numel()) + EDGES * (edges[0] / counts[0] + edges[1] / counts[1])


@pytest.fixture
def trained(world: WorldModel) -> WorldModel:
    world.codec = Gain()
    return world


@pytest.mark.parametrize("contrast", [1.0, 0.2])
def test_the_loss_by_hand(
    objective: Callable[..., Any], source: Any, trained: WorldModel, minimised: Any, contrast: float
) -> None:
    """With low contrast some pixels differ by little more than what counts as changed; frames are not square."""
    source.video = contrast * torch.cat([source.video, source.video.flip(4)[..., :1] / 3], 4)
    source.names = ()
    stage = objective(codec, batch=2, changed=CHANGED, edges=EDGES, noise=NOISE)
    report = stage.update(STEP, minimised)
    assert source.asked == [(2, SEED, "codec", STEP)]
    loss, step = expected(source, GAIN, 2), 1e-6
    assert minimised.losses == [pytest.approx(loss, rel=1e-5)]
    assert not any(value.requires_grad for value in report.values())
    assert float(report["loss"]) == pytest.approx(loss, rel=1e-5)
    slope = (expected(source, GAIN + step, 2) - expected(source, GAIN - step, 2)) / (2 * step)
    assert float(trained.codec.gain.grad) == pytest.approx(slope, rel=1e-4)
    video = source.video[:2].double()
    noise = torch.stack([normal(video.shape[1:], SEED, "codec", STEP, clip, "noise").double() for clip in (0, 1)])
    error = (GAIN - 1) * video + NOISE * noise
    assert float(report["squared_error"]) == pytest.approx(float(error.square().mean()), rel=1e-5)
    assert float(report["first_squared_error"]) == pytest.approx(float(error[:, :, 0].square().mean()), rel=1e-5)
    largest = (video - video[:, :, :1]).abs().amax(1)
    assert 0 < (largest > 0.1).float().mean() < 1  # both kinds of pixels are in the clips
    assert contrast == 1 or ((largest > 0.1) & (largest < 0.2)).any()


def test_the_codec_alone_is_trained(objective: Callable[..., Any], trained: WorldModel) -> None:
    stage = objective(codec)
    codec.CodecObjective.prepare(trained, stage.config, SEED)
    assert [name for name, p in trained.named_parameters() if p.requires_grad] == ["codec.gain"]
    assert list(stage.modules()) == ["codec"] and stage.parameter_groups() == [
        {"name": "codec", "params": [trained.codec.gain], "lr_scale": 1.0}
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_convolutions_are_in_the_precision_of_the_run(
    objective: Callable[..., Any], trained: WorldModel, minimised: Any, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    seen: list[bool] = []
    forward = Gain.forward

    def noted(self: Gain, *given: Any) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(self, *given)

    monkeypatch.setattr(Gain, "forward", noted)
    trained.backbone.precision = precision
    objective(codec, batch=2).update(STEP, minimised)
    assert seen == [precision == "bf16"]


def test_settings() -> None:
    """Weights may be 0; the defaults are those that the recipe trains with."""
    table = {"data": "d", "batch": 1, "optimizer": {"learning_rate": 1e-3}, "loop": {"steps": 1}}
    config = codec.CodecConfig.model_validate(table)
    assert (config.noise, config.changed, config.edges) == (0.1, 3.0, 0.5)
    off = {"noise": 0, "changed": 0, "edges": 0}
    assert codec.CodecConfig.model_validate(table | off).changed == 0


def test_a_codec_that_is_not_trained_here_is_refused(world: WorldModel) -> None:
    world.codec.own = False
    with pytest.raises(UserError, match='that of model.kind = "tiny" is not trained'):
        codec.CodecObjective.prepare(world, None, SEED)  # type: ignore[arg-type]
