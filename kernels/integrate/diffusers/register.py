"""The families of models whose modules `accelerate` can swap, and how others are added."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from phys4d.kernels.integrate.diffusers.blocks import BlockForward
from phys4d.kernels.integrate.diffusers.bypass import plain_class
from phys4d.kernels.integrate.diffusers.forwards import ForwardReplacement
from phys4d.kernels.integrate.diffusers.processor import Processor
from phys4d.kernels.integrate.diffusers.setting import Setting

Part = Literal["attention", "norm"]
PARTS: tuple[Part, ...] = ("attention", "norm")

Attention = Callable[[Any, Setting], Callable[[str, Any], Processor | str]]
Blocks = Callable[[Any, Setting], Callable[[str, Any], BlockForward | str | None]]
Example = Callable[[], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True)
class Family:
    """A class of models, and what of it is swapped.

    Attributes:
        model: the class, or "package.ClassName" for one whose package need not be imported. A model belongs to the
            family if its class is this one, or the one that FSDP2 derives from it; a subclass does not, since it may
            compute otherwise: it gets a registration of its own.
        attention: (model, setting) -> (path, attention module) -> its new processor, or why it is not swapped.
        blocks: (model, setting) -> (path, module) -> its new forward, why it is not swapped, or None where it is no
            block. None: the part "norm" is nothing in this family.
        timesteps: (path, model, setting) -> replacements that embed one timestep for each frame, or why they cannot be;
            None: `timestep_per="frame"` is nothing in this family.
        divides: the model's attribute with the blocks, in order, whose tokens processors and blocks divide over
            `setting.divided`; "" where they do not.
        parts: what each part means, for people.
        examples: name -> () -> (a tiny random model, the arguments of one call), for tables and tests.
    """

    model: type[nn.Module] | str
    attention: Attention
    blocks: Blocks | None = None
    timesteps: Callable[[str, Any, Setting], list[ForwardReplacement] | str] | None = None
    divides: str = ""
    parts: Mapping[Part, str] = field(default_factory=dict)
    examples: Mapping[str, Example] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.model.rpartition(".")[2] if isinstance(self.model, str) else self.model.__name__


_families: dict[type[nn.Module] | str, Family] = {}


def register_family(family: Family) -> None:
    """Makes `accelerate` swap the modules of models of this family.

    Raises:
        ValueError: the class has a family already, or is not given as a class or "package.ClassName".
    """
    if not (isinstance(family.model, type) or (isinstance(family.model, str) and family.model.count(".") == 1)):
        raise ValueError(f"family: expected a class or 'package.ClassName', got {family.model!r}")
    if family.model in _families or _known(family.model) is not None:
        raise ValueError(f"family: {family.name} is registered already")
    _families[family.model] = family


def registered_families() -> list[Family]:
    """All families, in the order of their registration."""
    return list(_families.values())


def family_of(module: nn.Module) -> Family | None:
    """The family of a module; None if there is none for exactly its class."""
    return _known(plain_class(module))


def _known(kind: type[nn.Module] | str) -> Family | None:
    if isinstance(kind, str):
        return _families.get(kind)
    return _families.get(kind) or _families.get(f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}")
