"""All kinds of models. A new kind is one folder beside this file whose `spec.py` defines SPEC, and one line here."""

from phys4d.models.spec import ModelSpec
from phys4d.models.tiny.spec import SPEC as TINY
from phys4d.models.wan.spec import SPEC as WAN

MODELS: dict[str, ModelSpec] = {
    spec.kind: spec
    for spec in (
        TINY,
        WAN,
    )
}


def published() -> list[ModelSpec]:
    """The kinds that have published weights."""
    return [spec for spec in MODELS.values() if spec.title is not None]
