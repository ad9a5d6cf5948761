"""All training stages. A new stage is one file beside this one that defines SPEC, and one line here."""

from importlib import import_module

from phys4d.stages.spec import StageSpec

_FILES = (
    "backbone",
    "pretrain",
    "finetune",
    "reinforce",
)
_SPECS: list[StageSpec] = [import_module(f"phys4d.stages.{file}").SPEC for file in _FILES]
STAGES = {spec.name: spec for spec in _SPECS}
