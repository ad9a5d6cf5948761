"""What every kind of model owes: noise levels from exactly 1 to 0, and what stands for no caption."""

from typing import Any

import pytest
import torch

from phys4d.models.backbone import Backbone
from phys4d.models.config import ModelConfig
from phys4d.models.registry import MODELS
from phys4d.models.wan.backbone import WanBackbone
from phys4d.stages.adapter import in_blocks
from phys4d.stages.flow_sde import step_distribution

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DPM-Solver": {"_class_name": "DPMSolverMultistepScheduler", **FLOW},
    "DPM-Solver, one step": {"_class_name": "DPMSolverSinglestepScheduler", **FLOW},
    "UniPC": {"_class_name": "UniPCMultistepScheduler", **FLOW},
    "Euler": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
}
SHIFTS = [
    0.1397542,
    1.0,
    1.3350256190621397,
    2.0,
    3.0,
    5.0,
    5.6298,
    8.0,
]  # shift / (1 + (shift - 1)) is not 1 in fp32 for some


@pytest.fixture(scope="module", params=[*MODELS, *SCHEDULERS])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Of each kind, without values; of Wan with each scheduler that a folder may hold."""
    kind = "wan" if request.param in SCHEDULERS else request.param
    bare = MODELS[kind].bare
    assert bare is not None
    counted = bare(ModelConfig(kind=kind, taps=(0,)), None)
    found = counted.build(counted.period, (0,), 0).backbone
    if request.param in SCHEDULERS:
        assert isinstance(found, WanBackbone)
        found.scheduler = SCHEDULERS[request.param]
    return found


def test_the_modules_of_an_adapter_lie_in_blocks(backbone: Backbone) -> None:
    """Each is in one block, and `blocks` of a stage chooses it with that block."""
    own = {id(m): path for path, m in backbone.transformer.named_modules()}
    every = {path for path in own.values() if any(path.endswith(f".{end}") for end in backbone.lora_targets)}
    count, found = len(backbone.blocks), []
    for k, block in enumerate(backbone.blocks):
        paths = in_blocks(backbone, backbone.lora_targets, k, k)
        assert paths and all(path.startswith(f"{own[id(block)]}.") for path in paths)
        found += paths
    assert set(found) == every and len(found) == len(every)
    assert set(in_blocks(backbone, backbone.lora_targets, 0, count - 1)) == every


@pytest.mark.parametrize("steps", [4, 10, 30])
def test_levels_go_from_exactly_1_to_0(backbone: Backbone, steps: int) -> None:
    for shift in SHIFTS:
        sigmas = backbone.sigmas(steps, shift)
        assert (sigmas.dtype, sigmas.shape) == (torch.float32, (steps + 1,))
        assert (float(sigmas[0]), float(sigmas[-1])) == (1.0, 0.0), shift
        assert (sigmas[1:] < sigmas[:-1]).all(), shift


def test_the_first_stochastic_step_is_of_the_size_that_it_has_at_1(backbone: Backbone) -> None:
    """Deviation level sqrt(-dt / (1 - following)), which is the level."""
    for shift in SHIFTS:
        sigma, following = backbone.sigmas(10, shift)[:2].tolist()
        state = torch.ones(1, 1, 1, 1, 1)
        mean, deviation = step_distribution(state, state, sigma, following, 0.7, "flow_sde")
        assert deviation == pytest.approx(0.7, rel=1e-6), shift
        # mean: 1 - 0.49 / 2 + following - 1
        assert float(mean) == pytest.approx(following - 0.245, rel=1e-4), shift


def test_the_kind_says_whether_no_caption_is_learned(backbone: Backbone) -> None:
    """Preflight asks the kind, before there is a backbone."""
    spec = next(spec for spec in MODELS.values() if type(backbone).__module__.startswith(f"phys4d.models.{spec.kind}."))
    assert spec.learned_no_caption == (type(backbone).unconditional is not Backbone.unconditional)
