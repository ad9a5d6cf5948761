"""All kinds of models. A new kind is one folder beside this file whose `spec.py` defines SPEC, and one line here."""

from importlib import import_module

from phys4d.models.spec import ModelSpec

_MODULES = (
    "phys4d.models.tiny.spec",
    "phys4d.models.small.spec",
    "phys4d.models.cogvideox.spec",
    "phys4d.models.wan21.spec",
    "phys4d.models.wan.spec",
    "phys4d.models.opensora.spec",
)
_SPECS: list[ModelSpec] = [import_module(module).SPEC for module in _MODULES]
MODELS = {spec.kind: spec for spec in _SPECS}


def published() -> list[ModelSpec]:
    """The kinds that have published weights."""
    return [spec for spec in MODELS.values() if spec.title is not None]
