"""All kinds of models. A new kind is one folder beside this file whose `spec.py` defines SPEC, and one line here."""

from importlib import import_module

from phys4d.models.spec import ModelSpec

_FOLDERS = (
    "tiny",
    "wan",
)
_SPECS: list[ModelSpec] = [import_module(f"phys4d.models.{folder}.spec").SPEC for folder in _FOLDERS]
MODELS = {spec.kind: spec for spec in _SPECS}


def published() -> list[ModelSpec]:
    """The kinds that have published weights."""
    return [spec for spec in MODELS.values() if spec.title is not None]
