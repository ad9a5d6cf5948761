"""How a released model is sampled, read from scheduler/ of its folder: the shift of its sigmas."""

from pathlib import Path
from typing import Any

from phys4d.engine.errors import UserError
from phys4d.models.headers import read_json

STEPS = 50  # of diffusers' WanPipeline where nothing is asked for
SHIFT = 5.0  # of Wan2.2-TI2V-5B, for a folder without scheduler/
_EULER = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_MULTISTEP = ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler")
_OTHER_SPACINGS = (
    "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting", "shift_terminal",
    "invert_sigmas",
)  # fmt: skip


def published_shift(folder: Path) -> float:
    """The shift of a released folder: `flow_shift` (UniPC, DPM-Solver) or `shift` (FlowMatchEuler) of its scheduler.

    The published solver is not taken over: samples are drawn by Euler steps, at the same sigmas up to what
    `flow.schedule` states. UserError for a scheduler that is none of rectified flow, or spaces sigmas in another way.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.parent.exists():
        return SHIFT
    config = read_json(path)
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


def _check_spacing(path: Path, config: dict[str, Any]) -> None:
    """UserError where sigmas are not the shifted uniform ones of 1000 timesteps."""
    if config.get("num_train_timesteps", 1000) != 1000:
        raise UserError(f"{path}: num_train_timesteps: {config['num_train_timesteps']}: only 1000 is taken")
    for key in _OTHER_SPACINGS:
        if config.get(key):
            raise UserError(f"{path}: {key}: {config[key]!r}: only uniform sigmas with one shift are taken: unset it")
