"""All rewards. A new reward is one file beside this one that defines SPEC, and one line here."""

from importlib import import_module

from phys4d.rewards.spec import RewardSpec

_FILES = (
    "moving_points",
    "moving_objects",
    "all_points",
)
_SPECS: list[RewardSpec] = [import_module(f"phys4d.rewards.{file}").SPEC for file in _FILES]
REWARDS = {spec.name: spec for spec in _SPECS}
