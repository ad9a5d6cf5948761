"""How a released model is trained and sampled: read from its scheduler, checked against diffusers' own sigmas."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from phys4d.engine.errors import UserError
from phys4d.models.config import ModelConfig
from phys4d.models.flow import schedule, shifted
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.wan.schedule import GUIDANCE, STEPS, build_scheduler, published_sampling, published_shift
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


def backbone(**scheduler: Any) -> WanBackbone:
    """A transformer whose weights are on meta, with the scheduler of a folder, or with none."""
    with torch.device("meta"):
        net = WanTransformer3DModel(
            num_attention_heads=1, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8,
            ffn_dim=8, num_layers=1, rope_max_seq_len=8,
        )  # fmt: skip
    return WanBackbone(net, (0,), scheduler) if scheduler else WanBackbone(net, (0,))


@pytest.mark.parametrize("shift", [3.0, 5.0])  # of Wan at 480p and at 720p; Wan2.2-TI2V-5B takes 5 at both
@pytest.mark.parametrize("steps", [4, 10, 50])
@pytest.mark.parametrize(
    ("scheduler", "theirs"),
    [
        ({}, UniPCMultistepScheduler),
        (unipc(flow_shift=1.0), UniPCMultistepScheduler),
        (unipc(_class_name="DPMSolverMultistepScheduler"), DPMSolverMultistepScheduler),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, FlowMatchEulerDiscreteScheduler),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, FlowMatchEulerDiscreteScheduler),
    ],
    ids=["published", "unipc", "dpm", "euler", "heun"],
)
def test_sampling_visits_the_sigmas_of_the_published_scheduler(
    scheduler: dict[str, Any], theirs: type[Any], steps: int, shift: float
) -> None:
    if theirs is FlowMatchEulerDiscreteScheduler:
        stock = theirs(shift=shift)
    else:
        stock = theirs(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    stock.set_timesteps(steps)
    ours = backbone(**scheduler).sigmas(steps, shift)
    assert ours.dtype == torch.float32 and ours.shape == (steps + 1,)
    assert ours[1:].tolist() == stock.sigmas[1:].tolist()
    assert ours[0] == 1 and float(stock.sigmas[0]) == pytest.approx(1, abs=1e-3)


def test_three_steps_of_the_published_sigmas_by_hand() -> None:
    """u = 1, 0.667, 0.334, and sigma = 5 u / (1 + 4 u)."""
    by_hand = torch.tensor([1.0, 3.335 / 3.668, 1.67 / 2.336, 0.0])
    torch.testing.assert_close(backbone().sigmas(3, 5.0), by_hand)


def test_tiny_keeps_its_own_equal_steps() -> None:
    tiny = create_model(ModelConfig(width=32, layers=1, taps=(0,)), 5, 16, 16, seed=0)
    assert tiny.backbone.sigmas(4, 5.0).tolist() == schedule(4, 5.0).tolist()


def test_the_published_solver_and_guidance(tmp_path: Path) -> None:
    """A folder without a scheduler is sampled as the released model; the guidance is that of the stock pipeline."""
    assert signature(WanPipeline.__call__).parameters["guidance_scale"].default == GUIDANCE
    sampling = published_sampling(tmp_path)
    assert (sampling.solver, sampling.guidance, sampling.size) == ("unipc", 5.0, (121, 704, 1280))
    assert sampling.scheduler is not None
    own = sampling.scheduler(3.0)
    assert isinstance(own, UniPCMultistepScheduler) and own.config.flow_shift == 3.0
    write(tmp_path, unipc(_class_name="DPMSolverMultistepScheduler", solver_order=3))
    dpm = published_sampling(tmp_path)
    assert dpm.solver == "dpm++" and dpm.scheduler is not None and dpm.scheduler(5.0).config.solver_order == 3
    assert build_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler"}, 5.0).shift == 5.0


def test_the_middle_of_four_steps_by_hand() -> None:
    torch.testing.assert_close(schedule(4, 5.0), torch.tensor([1.0, 0.9375, 5 / 6, 0.625, 0.0]))
