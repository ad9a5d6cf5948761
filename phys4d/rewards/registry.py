"""All rewards. A new reward is one file beside this one that defines SPEC, and one line here."""

from importlib import import_module

from phys4d.rewards.spec import RewardSpec

_MODULES = (
    "phys4d.rewards.moving_points",
    "phys4d.rewards.moving_objects",
    "phys4d.rewards.all_points",
)
_SPECS: list[RewardSpec] = [import_module(module).SPEC for module in _MODULES]
REWARDS = {spec.name: spec for spec in _SPECS}
