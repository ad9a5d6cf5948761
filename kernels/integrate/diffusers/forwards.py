"""Where a module's forward is kept: on the module, or below wrappers.

Known are those of hooks of accelerate and diffusers, and objects that keep what they call in `inner_forward`, as the
engine's activation checkpointing does.

Sources: accelerate, hooks.py (add_hook_to_module); diffusers, hooks/hooks.py (HookRegistry.register_hook).
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn


class Place(NamedTuple):
    """An attribute that holds a forward."""

    holder: Any
    name: str

    @property
    def value(self) -> Any:
        """What it holds; None where the class's forward applies."""
        return self.holder.__dict__.get(self.name)


def places(module: nn.Module) -> Iterator[Place]:
    """Every place of a module's forward, from the outermost wrapper to what the wrappers call in the end."""
    place: Place | None = Place(module, "forward")
    seen: list[Place] = []
    while place is not None and place not in seen:
        seen.append(place)
        yield place
        place = _below(module, place.value)


def _below(module: nn.Module, wrapper: Any) -> Place | None:
    """The place of what this wrapper calls; None if it is not a wrapper that is known."""
    if "inner_forward" in getattr(wrapper, "__dict__", {}):
        return Place(wrapper, "inner_forward")
    if type(wrapper) is not functools.partial:
        return None
    function = wrapper.func
    if function.__module__ == "accelerate.hooks" and "_old_forward" in module.__dict__:
        return Place(module, "_old_forward")
    if function.__module__ == "diffusers.hooks.hooks" and function.__closure__:
        reference = function.__closure__[0].cell_contents
        if type(reference).__name__ == "HookFunctionReference":
            return Place(reference, "forward" if reference.original_forward is None else "original_forward")
    return None


def innermost(module: nn.Module) -> Place:
    """The place below all known wrappers."""
    *_, last = places(module)
    return last


def is_own_forward(module: nn.Module, value: Any) -> bool:
    """Whether this is what the module's class computes, bound to this module."""
    if value is None:
        return True
    return getattr(value, "__self__", None) is module and value.__func__ is type(module).forward


def described(value: Any) -> str:
    """A name for a function or another callable."""
    value = getattr(value, "func", value)
    return getattr(value, "__qualname__", None) or type(value).__name__


class ForwardReplacement:
    """A callable in the place of a module's forward, until `undo`.

    A copy of the model (copy.deepcopy, pickle) copies it along, bound to the module's copy.

    Attributes:
        path: of the module in the model.
        module: whose forward it replaces.
        before: what was in its place; None for the class's forward.
    """

    def __init__(self, path: str, module: Any) -> None:
        self.path, self.module = path, module
        self.before: Any = None

    def swap(self, place: Place) -> None:
        """Puts itself there."""
        self.before = place.value
        setattr(place.holder, place.name, self)

    def find(self) -> Place | None:
        """Its place; None where code that is not known stands between, or where it was removed."""
        return next((place for place in places(self.module) if place.value is self), None)

    def original(self, *arguments: Any, **options: Any) -> Any:
        """What was computed before the swap."""
        if self.before is not None:
            return self.before(*arguments, **options)
        return type(self.module).forward(self.module, *arguments, **options)

    def undo(self) -> None:
        """Restores what was in its place. Whatever still holds this object gets from it what was computed before."""
        place = self.find()
        if place is not None and self.before is None and place.holder is self.module and place.name == "forward":
            del self.module.forward
        elif place is not None:
            before = type(self.module).forward.__get__(self.module) if self.before is None else self.before
            setattr(place.holder, place.name, before)
        self.__class__ = Undone


class Undone(ForwardReplacement):
    """A replacement that was undone and that other code still holds."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.original(*arguments, **options)
