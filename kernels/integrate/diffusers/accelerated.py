"""The result of `accelerate`: what is swapped in a model, what is not and why, and how to undo it."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch import nn

from phys4d.kernels.integrate.diffusers.forwards import ForwardReplacement, places
from phys4d.kernels.integrate.diffusers.processor import Processor
from phys4d.kernels.integrate.diffusers.report import Report, Site, describe, has_processor


class Accelerated:
    """A model some of whose modules go through this package, until `undo` or the end of a `with` block.

    Attributes:
        model: name of the model's class.
        backend: of `attention`, as asked for.
        parts: that were to be swapped.
        roots: name ("" for a model itself) -> model.
        sites: path -> a module that was looked at.
        unknown: name of a model -> why nothing of it is swapped.
        notes: name of a model -> which option does nothing in it.
        called, passed: as in `Report`, filled as calls are made.
        hooks: with `undo`, placed on the models.
    """

    def __init__(self, model: str, backend: str, parts: Sequence[str], roots: dict[str, nn.Module]) -> None:
        self.model, self.backend, self.parts, self.roots = model, backend, tuple(parts), roots
        self.sites: dict[str, Site] = {}
        self.unknown: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.called: dict[str, str] = {}
        self.passed: dict[str, str] = {}
        self.hooks: list[Any] = []
        self._undone = False

    def report(self) -> Report:
        """What computes each part of the model as it stands now."""
        found = Report(f"{self.model}, backend {self.backend}", notes=dict(self.notes))
        found.called, found.passed = dict(self.called), dict(self.passed)
        if self._undone:
            found.notes[self.model] = "undone: the model's own code computes it"
            return found
        describe(found, self.roots, self.sites, "attention" in self.parts)
        found.left = self.unknown | found.left
        return found

    @property
    def swapped(self) -> dict[str, str]:
        """Path of an attention module or of a block -> what of it goes through this package, as it stands now."""
        return self.report().swapped

    @property
    def left(self) -> dict[str, str]:
        """Path of such a module (or name of the model) -> why the model's own code computes it, as it stands now."""
        return self.report().left

    def undo(self) -> None:
        """Puts the former processors and forwards back, where they have not been replaced since; the model then
        computes the same bits as before. Hooks and processors of other code stay."""
        for site in reversed(self.sites.values()):
            if isinstance(site.ours, Processor):
                site.ours.undo(site.module)
            elif site.ours is not None:
                site.ours.undo()
            site.ours = None
        for hook in self.hooks:
            hook.undo()
        self.hooks.clear()
        self._undone = True

    def __enter__(self) -> "Accelerated":
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.undo()

    def __str__(self) -> str:
        return str(self.report())


def restore(model: nn.Module) -> None:
    """Undoes every acceleration of a model, also one that came with it: of a copy, or of a model read from a file.

    Args:
        model: any module; what it does not hold of this package's needs no undoing.
    """
    for module in model.modules():
        if has_processor(module) and isinstance(module.processor, Processor):
            module.processor.undo(module)
        for place in reversed(list(places(module))):
            if isinstance(place.value, ForwardReplacement):
                place.value.undo()
        for hook in list(module._forward_pre_hooks.values()):
            if type(hook).__module__.startswith("phys4d.") and hasattr(hook, "undo"):
                hook.undo()
