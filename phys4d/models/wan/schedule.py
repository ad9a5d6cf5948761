"""How a released model is sampled, read from scheduler/ of its folder: noise levels, solver, guidance."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor

from phys4d.engine.errors import UserError
from phys4d.models.flow import from_noise
from phys4d.models.headers import read_json
from phys4d.models.spec import Published, Sampling

STEPS = 50  # of diffusers' WanPipeline where nothing is asked for
GUIDANCE = 5.0  # likewise
SIZE = (121, 704, 1280)  # frames, height and width of the clips that Wan2.2-TI2V-5B was published with
SHIFT = 5.0  # of Wan2.2-TI2V-5B, for a folder without scheduler/
SCHEDULER: Mapping[str, Any] = {  # of Wan2.2-TI2V-5B, likewise
    "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True,
    "flow_shift": SHIFT,
}  # fmt: skip
_EULER = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_MULTISTEP = ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler")
_OTHER_SPACINGS = (
    "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting", "shift_terminal",
    "invert_sigmas",
)  # fmt: skip


def published_shift(folder: Path, absent: Mapping[str, Any] = SCHEDULER) -> float:
    """The shift of a released folder: `flow_shift` (UniPC, DPM-Solver) or `shift` (FlowMatchEuler) of its scheduler.

    UserError for a scheduler that is none of rectified flow, or spaces sigmas in another way.

    folder: of the model. absent: as of `published_scheduler`.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    config = published_scheduler(folder, absent)
    name = config.get("_class_name")
    if name in _EULER:
        shift = config.get("shift", 1.0)
    elif name in _MULTISTEP:
        for key, wanted in (("prediction_type", "flow_prediction"), ("use_flow_sigmas", True)):
            if config.get(key) != wanted:
                raise UserError(f"{path}: {key}: {config.get(key)!r}: only schedulers of rectified flow ({wanted!r})")
        shift = config.get("flow_shift", 1.0)
    else:
        raise UserError(f"{path}: _class_name: {name!r}: expected one of {', '.join(_EULER + _MULTISTEP)}")
    _check_spacing(path, config)
    if isinstance(shift, bool) or not isinstance(shift, (int, float)) or not shift > 0:
        raise UserError(f"{path}: shift {shift!r}: expected a number above 0")
    return float(shift)


def _check_spacing(path: Path, config: Mapping[str, Any]) -> None:
    """UserError where sigmas are not the shifted uniform ones of 1000 timesteps."""
    if config.get("num_train_timesteps", 1000) != 1000:
        raise UserError(f"{path}: num_train_timesteps: {config['num_train_timesteps']}: only 1000 is taken")
    for key in _OTHER_SPACINGS:
        if config.get(key):
            raise UserError(f"{path}: {key}: {config[key]!r}: only uniform sigmas with one shift are taken: unset it")


def published_scheduler(source: Published, absent: Mapping[str, Any] = SCHEDULER) -> Mapping[str, Any]:
    """The table of scheduler/scheduler_config.json of a folder, or `absent` where there is none."""
    path = source / "scheduler" if isinstance(source, Path) else None
    return absent if path is None or not path.exists() else read_json(path / "scheduler_config.json")


def build_scheduler(config: Mapping[str, Any], shift: float) -> Any:
    """diffusers' scheduler of this configuration, with another shift. A Heun scheduler becomes FlowMatchEuler, whose
    noise levels are the same."""
    euler = config["_class_name"] in _EULER
    name = _EULER[0] if euler else config["_class_name"]
    return getattr(diffusers, name).from_config(dict(config) | {"shift" if euler else "flow_shift": shift})


def published_sigmas(config: Mapping[str, Any], steps: int, shift: float) -> Tensor:
    """Noise levels of sampling, fp32 [steps + 1], those that the scheduler of a configuration visits, down to 0.

    The first one is 1, where UniPC writes 0.999999 for its logarithms, and DPM-Solver 0.9998 at shift 5, the last entry
    of its table of timesteps, both for latents that are noise alone.
    """
    scheduler = build_scheduler(config, shift)
    scheduler.set_timesteps(steps)
    return from_noise(scheduler.sigmas)


def published_sampling(
    source: Published, absent: Mapping[str, Any] = SCHEDULER, size: tuple[int, int, int] = SIZE
) -> Sampling:
    """Solver, guidance and size of the clips of a released model; source, absent: as of `published_scheduler`; size:
    of its clips."""
    config = published_scheduler(source, absent)
    name = config["_class_name"]
    solver = "euler" if name in _EULER else "unipc" if name.startswith("UniPC") else "dpm++"
    return Sampling(solver, GUIDANCE, size, None if solver == "euler" else lambda shift: build_scheduler(config, shift))
