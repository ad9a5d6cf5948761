"""All training stages. A new stage is one file beside this one that defines SPEC, and one line here."""

from importlib import import_module

from phys4d.stages.spec import StageSpec

_MODULES = (
    "phys4d.stages.codec",
    "phys4d.stages.backbone",
    "phys4d.stages.pretrain",
    "phys4d.stages.finetune",
    "phys4d.stages.reinforce",
    "phys4d.stages.reward_gradient",
)
_SPECS: list[StageSpec] = [import_module(module).SPEC for module in _MODULES]
STAGES = {spec.name: spec for spec in _SPECS}
