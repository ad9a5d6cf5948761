"""What computes each part of a model, read from the model as it stands."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from phys4d.kernels.integrate.diffusers.blocks import BlockForward
from phys4d.kernels.integrate.diffusers.forwards import (
    ForwardReplacement,
    described,
    innermost,
    is_own_forward,
    places,
)
from phys4d.kernels.integrate.diffusers.processor import Processor
from phys4d.kernels.integrate.diffusers.register import family_of


@dataclass
class Site:
    """A module that `accelerate` looked at.

    Attributes:
        module: the attention module, block or embedder.
        ours: its new processor or forward; None where it was left alone.
        own: the processor that was left in place; None for others.
        why: it was left alone.
    """

    module: nn.Module
    ours: Processor | ForwardReplacement | None = None
    own: Any = None
    why: str = ""


@dataclass
class Report:
    """What computes each part of a model.

    Attributes:
        title: of the model and the backend.
        swapped: path of an attention module or of a block -> what of it goes through this package.
        left: path of such a module (or name of a model) -> why the model's own code computes it.
        notes: path or name of a model -> what an option or a setting of diffusers does not do.
        called: path of a swapped module -> the norms that a call did not bypass. From calls so far.
        passed: path of a swapped module -> why the model's own code computed a call all the same. From calls so far.
    """

    title: str
    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)
    passed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.title}: {len(self.swapped)} modules swapped"]
        for title, entries in (
            ("swapped", self.swapped), ("not swapped", self.left), ("note", self.notes),
            ("called as they are", self.called), ("passed on", self.passed),
        ):  # fmt: skip
            lines += [f"  {title}  {line}" for line in _grouped(entries)]
        return "\n".join(lines)


def _grouped(entries: dict[str, str]) -> list[str]:
    """Lines of "path (how many): text", blocks that differ only in their number as one."""
    groups: dict[tuple[str, str], int] = {}
    for path, text in entries.items():
        alike = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path), text
        groups[alike] = groups.get(alike, 0) + 1
    return [f"{path}{f' ({count})' if count > 1 else ''}: {text}" for (path, text), count in groups.items()]


def has_processor(module: nn.Module) -> bool:
    """Whether this is an attention module of diffusers, whose processor can be set, by a method or as an attribute."""
    processor = getattr(module, "processor", None)
    if processor is None or hasattr(module, "set_processor"):
        return processor is not None
    return isinstance(processor, Processor) or type(processor).__module__.startswith("diffusers.models.")


def describe(report: Report, roots: dict[str, nn.Module], sites: dict[str, Site], attention: bool) -> None:
    """Fills `swapped`, `left` and `notes` of a report.

    Args:
        report: to be filled.
        roots: name ("" for a model itself) -> model.
        sites: path -> what was looked at.
        attention: whether attention modules were to be swapped: those that came since are named, too.
    """
    modules = {path: module for name, root in roots.items() for path, module in root.named_modules(prefix=name)}
    known = [path for path, module in modules.items() if family_of(module)]
    ours = {id(site.ours) for site in sites.values() if site.ours is not None}
    for path, module in modules.items():
        site = sites.get(path)
        if attention and has_processor(module) and _inside(path, known):
            why = _attention(site, module, ours)
        elif site is not None and not isinstance(site.ours, Processor) and site.own is None:
            why = _forward(site, module)
        else:
            continue
        if why is not None:
            report.left[path] = why
            continue
        assert site is not None
        report.swapped[path] = "; ".join([*_texts(site, module), *_wrappers(module)])
        if isinstance(site.ours, Processor) and (chosen := getattr(site.ours.own, "_attention_backend", None)):
            report.notes[path] = f"diffusers' attention backend {_name(chosen)} that was set for it has no effect"
    report.left |= {path: "it is no longer in the model" for path in sites if path not in modules}
    if (active := _active_backend()) and any(isinstance(site.ours, Processor) for site in sites.values()):
        report.notes["diffusers"] = f"its active attention backend {active} has no effect on what is swapped"


def _inside(path: str, known: Iterable[str]) -> bool:
    return any(not prefix or path.startswith(f"{prefix}.") for prefix in known)


def _attention(site: Site | None, attn: Any, ours: set[int]) -> str | None:
    """Why the model's own code computes this attention; None if this package does."""
    found = type(attn.processor).__name__
    if id(attn.processor) in ours:
        if site is not None and attn.processor is site.ours:
            return None
        return "its processor is that of another module of the model"
    if isinstance(attn.processor, Processor):
        return "swapped already"
    if site is None:
        return f"it was added since, with the processor {found}"
    if isinstance(site.ours, Processor):
        return f"its processor was replaced since, by {found}"
    if attn.processor is site.own:
        return site.why
    return f"computed by {found}" if site.ours is not None else f"its processor was replaced since, by {found}"


def _forward(site: Site, module: nn.Module) -> str | None:
    """Why the model's own code computes what a replaced forward would; None if this package does."""
    if site.ours is None:
        return site.why
    if site.ours.module is not module:  # type: ignore[union-attr]
        return "it was replaced by another module since"
    if any(place.value is site.ours for place in places(module)):
        return None
    found = innermost(module).value
    by = "" if is_own_forward(module, found) else f", by {described(found)}: whether that calls it is not known"
    return f"its forward was replaced since{by}"


def _texts(site: Site, module: nn.Module) -> list[str]:
    """What of a swapped module goes through this package, and which of its norms do not."""
    if isinstance(site.ours, Processor):
        return [site.ours.swaps, *site.ours.reasons(module)]
    if isinstance(site.ours, BlockForward):
        return [site.ours.swaps, *site.ours.reasons()]
    return ["a timestep for each frame"]


def _wrappers(module: Any) -> list[str]:
    """Hooks that decide whether the module is called at all."""
    names = [*getattr(getattr(module, "_diffusers_hook", None), "hooks", ())]
    names += [type(module._hf_hook).__name__] if hasattr(module, "_hf_hook") else []
    return [f"under the hooks {', '.join(names)}"] if names else []


def _name(backend: Any) -> str:
    return str(getattr(backend, "value", backend))


def _active_backend() -> str | None:
    """The attention backend that diffusers takes by default, if it is not torch's."""
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    registry = getattr(dispatch, "_AttentionBackendRegistry", None)
    name = _name(getattr(registry, "_active_backend", "native"))
    return None if name == "native" else name
