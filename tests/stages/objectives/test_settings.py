"""The stages' settings: what they are where a run file does not say, the least that each takes, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from phys4d.engine.training.loop import LoopConfig, OptimizerConfig
from phys4d.stages.backbone import BackboneConfig
from phys4d.stages.finetune import FinetuneConfig
from phys4d.stages.geometry_loss import GeometryWeights
from phys4d.stages.pretrain import PretrainConfig
from phys4d.stages.registry import STAGES
from phys4d.stages.reinforce import ReinforceConfig

REST: dict[str, Any] = {
    "data": Path("clips"), "optimizer": OptimizerConfig(learning_rate=1e-3), "loop": LoopConfig(steps=1)
}  # fmt: skip
# Config, setting, its default, the least (or, of what must be above 0, little) that it takes, what it refuses.
NUMBERS: list[tuple[type, str, float | None, float, float]] = [
    (GeometryWeights, "depth", 2.0, 0, -0.1), (GeometryWeights, "flow", 0.3, 0, -0.1),
    (GeometryWeights, "dz", 3.0, 0, -0.1), (GeometryWeights, "warp", 0.0, 0, -0.1),
    (GeometryWeights, "moving_depth", 8.0, 0, -0.1), (GeometryWeights, "moving_motion", 16.0, 0, -0.1),
    (GeometryWeights, "margin", 2, 0, -1), (BackboneConfig, "batch", 8, 1, 0), (PretrainConfig, "batch", 8, 1, 0),
    (PretrainConfig, "moving_pixels", 0.3, 0.01, 0), (FinetuneConfig, "batch", 8, 1, 0),
    (FinetuneConfig, "rank", None, 1, 0), (FinetuneConfig, "alpha", None, 0.01, 0),
    (FinetuneConfig, "diffusion", 5.0, 0, -0.1), (FinetuneConfig, "heads_first", 0, 0, -1),
    (FinetuneConfig, "heads_lr_scale", 2.0, 0, -0.1), (FinetuneConfig, "layer_decay", 1.0, 0.01, 0),
    (BackboneConfig, "caption_dropout", 0.0, 0, -0.1), (FinetuneConfig, "caption_dropout", 0.0, 0, -0.1),
    (ReinforceConfig, "caption_dropout", 0.0, 0, 1.1), (ReinforceConfig, "rank", None, 1, 0),
    (ReinforceConfig, "alpha", None, 0.01, -1), (PretrainConfig, "disparity", 2.0, 0, -0.1),
    (ReinforceConfig, "conditions", 4, 1, 0), (ReinforceConfig, "group", 6, 2, 1), (ReinforceConfig, "steps", 6, 2, 1),
    (ReinforceConfig, "stochastic_steps", 3, 1, 0), (ReinforceConfig, "noise_level", 0.7, 0.01, 0),
    (ReinforceConfig, "guidance", 1.0, 1, 0.9),
    (ReinforceConfig, "clip", 0.2, 0.01, 0), (ReinforceConfig, "dimensions", 1e4, 0.01, 0),
    (ReinforceConfig, "advantage_clip", 3.0, 0.01, 0), (ReinforceConfig, "kl", 0.01, 0, -0.1),
    (BackboneConfig, "max_bad", 0.05, 0, -0.1), (BackboneConfig, "micro_batch", None, 1, 0),
    (ReinforceConfig, "flow_matching", 1.0, 0, -0.1), (ReinforceConfig, "flow_matching_batch", 6, 1, 0),
]  # fmt: skip


def given(config: type, **settings: Any) -> Any:
    rest = {} if config is GeometryWeights else REST
    if settings.get("steps") == 2:
        settings["stochastic_steps"] = 1
    return config(**rest, **settings)


@pytest.mark.parametrize(
    ("config", "name", "default", "least", "refused"), NUMBERS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_number_has_its_default_and_its_range(
    config: type, name: str, default: float | None, least: float, refused: float
) -> None:
    assert getattr(given(config), name) == default
    assert getattr(given(config, **{name: least}), name) == least
    with pytest.raises(ValidationError, match=name):
        given(config, **{name: refused})


@pytest.mark.parametrize(
    ("config", "name", "most"),
    [
        (BackboneConfig, "caption_dropout", 1.0), (FinetuneConfig, "caption_dropout", 1.0),
        (ReinforceConfig, "caption_dropout", 1.0), (FinetuneConfig, "layer_decay", 1.0),
        (ReinforceConfig, "guidance", 100.0), (PretrainConfig, "max_bad", 1.0),
    ],
)  # fmt: skip
def test_a_number_has_a_most_where_more_has_no_meaning(config: type, name: str, most: float) -> None:
    assert getattr(given(config, **{name: most}), name) == most
    with pytest.raises(ValidationError, match=name):
        given(config, **{name: 1.01 * most})


def test_what_is_no_number() -> None:
    assert given(FinetuneConfig).weights == GeometryWeights(warp=0.5) and given(PretrainConfig).weights.warp == 0
    reinforce = given(ReinforceConfig)
    assert reinforce.shared_start and not reinforce.shuffled_advantages
    assert reinforce.reward == "changed" and reinforce.sampler == "flow_sde"
    for name in ("reward", "sampler"):
        with pytest.raises(ValidationError, match=name):
            given(ReinforceConfig, **{name: "other"})


def test_what_each_stage_says_of_the_model_that_it_writes() -> None:
    said = {
        name: [flag for flag in ("owns_backbone", "reads_geometry", "trains_reader", "rewarded") if getattr(spec, flag)]
        for name, spec in STAGES.items()
    }
    assert said == {
        "codec": ["owns_backbone"],
        "backbone": ["owns_backbone"],
        "pretrain": ["reads_geometry", "trains_reader"],
        "finetune": ["reads_geometry", "trains_reader"],
        "reinforce": ["reads_geometry", "rewarded"],
        "reward_gradient": ["reads_geometry", "rewarded"],
    }
    assert STAGES["reinforce"].samples(given(ReinforceConfig, conditions=3, group=2)) == 6
    assert [name for name, spec in STAGES.items() if spec.static_camera(given(ReinforceConfig))] == [
        "reinforce", "reward_gradient"
    ]  # fmt: skip
