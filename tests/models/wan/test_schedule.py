"""How a released model is trained and sampled: read from its scheduler, checked against diffusers' own sigmas."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline

from phys4d.engine.errors import UserError
from phys4d.models.config import ModelConfig
from phys4d.models.flow import schedule, shifted
from phys4d.models.wan.schedule import STEPS, published_shift
from phys4d.models.world import create_model


def write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def unipc(**changes: Any) -> dict[str, Any]:
    base = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
    return {"_class_name": "UniPCMultistepScheduler", **base, **changes}


@pytest.mark.parametrize(
    ("config", "shift"),
    [
        (unipc(), 5.0),
        (unipc(flow_shift=3), 3.0),
        ({key: value for key, value in unipc().items() if key != "flow_shift"}, 1.0),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 8.0}, 8.0),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, 1.0),
    ],
)
def test_the_shift_is_the_schedulers(tmp_path: Path, config: dict[str, Any], shift: float) -> None:
    assert published_shift(write(tmp_path, config)) == shift


def test_a_folder_without_a_scheduler_takes_that_of_the_published_model(tmp_path: Path) -> None:
    assert published_shift(tmp_path) == 5.0


def test_the_steps_are_those_of_the_stock_pipeline() -> None:
    assert signature(WanPipeline.__call__).parameters["num_inference_steps"].default == STEPS


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (unipc(prediction_type="epsilon"), "prediction_type: 'epsilon': only schedulers of rectified flow"),
        (unipc(prediction_type="v_prediction"), "prediction_type: 'v_prediction': only schedulers of rectified flow"),
        (unipc(use_flow_sigmas=False), "use_flow_sigmas: False: only schedulers of rectified flow"),
        ({"_class_name": "DDIMScheduler"}, "_class_name: 'DDIMScheduler': expected one of FlowMatchEuler"),
        ({}, "_class_name: None: expected one of"),
        (unipc(use_karras_sigmas=True), "use_karras_sigmas: True: only uniform sigmas"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "use_dynamic_shifting: "),
        (unipc(num_train_timesteps=100), "num_train_timesteps: 100: only 1000 is taken"),
        (unipc(flow_shift="5"), "shift '5': expected a number above 0"),
        (unipc(flow_shift=True), "shift True: expected a number above 0"),
        (unipc(flow_shift=0), "shift 0: expected a number above 0"),
    ],
)
def test_schedulers_that_are_not_ours_are_refused(tmp_path: Path, config: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        published_shift(write(tmp_path, config))
    assert f"scheduler_config.json: {line}" in str(refused.value)


def test_what_a_run_file_leaves_out_is_the_models_own_and_what_it_says_wins() -> None:
    left_out = ModelConfig(width=32, layers=1, taps=(0,))
    resolved = create_model(left_out, 5, 16, 16, seed=0).config
    assert (resolved.sampling_steps, resolved.sampling_shift) == (10, 3.0)
    said = left_out.model_copy(update={"sampling_steps": 4, "sampling_shift": 2.0})
    resolved = create_model(said, 5, 16, 16, seed=0).config
    assert (resolved.sampling_steps, resolved.sampling_shift) == (4, 2.0)
    assert resolved.model_dump() == said.model_dump()


def test_shifted_timesteps_are_those_that_diffusers_trains_on() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=5.0).sigmas
    torch.testing.assert_close(shifted(torch.arange(1000, 0, -1) / 1000, 5.0), theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("steps", "most"), [(4, 0.0010), (10, 0.0024), (50, 0.0043)])
def test_sampling_sigmas_are_unipcs_up_to_its_last_timestep(steps: int, most: float) -> None:
    theirs = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    theirs.set_timesteps(steps)
    ends_at_one = shifted(torch.linspace(1, 1e-3, steps + 1)[:-1], 5.0)
    torch.testing.assert_close(theirs.sigmas[:-1], ends_at_one, rtol=0, atol=2e-6)  # it subtracts 1e-6 from the first
    off = (schedule(steps, 5.0) - theirs.sigmas).abs().max()
    assert most - 0.0002 < off < most
    if steps == 50:
        euler = FlowMatchEulerDiscreteScheduler(shift=5.0)
        euler.set_timesteps(steps)
        assert 0.068 < (schedule(steps, 5.0) - euler.sigmas).abs().max() < 0.069


def test_the_middle_of_four_steps_by_hand() -> None:
    torch.testing.assert_close(schedule(4, 5.0), torch.tensor([1.0, 0.9375, 5 / 6, 0.625, 0.0]))
