"""`accelerate`: finds the models of known families, and swaps their modules."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from phys4d.kernels.attention.backends import BACKENDS
from phys4d.kernels.attention.context import Context
from phys4d.kernels.integrate.diffusers import families as _families  # noqa: F401 (registers those of this package)
from phys4d.kernels.integrate.diffusers.accelerated import Accelerated
from phys4d.kernels.integrate.diffusers.divided import DividedTokens
from phys4d.kernels.integrate.diffusers.forwards import ForwardReplacement, innermost
from phys4d.kernels.integrate.diffusers.processor import Processor, set_processor
from phys4d.kernels.integrate.diffusers.register import PARTS, Family, Part, family_of, registered_families
from phys4d.kernels.integrate.diffusers.report import Site, has_processor
from phys4d.kernels.integrate.diffusers.setting import Setting

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup

_PARALLEL = "diffusers computes this model in parallel"


def accelerate(
    model: Any, *, backend: str = "auto", parts: Sequence[Part] = PARTS,
    timestep_per: Literal["token", "frame"] = "token", group: "ProcessGroup | None" = None,
    context: Context = "auto", strict: bool = False,
) -> Accelerated:  # fmt: skip
    """Swaps attention, and what is between the layers, of diffusers' video transformers for what this package computes.

    Known are `registered_families()`, as `model` itself or anywhere inside it: those of diffusers (0.42) that
    docs/use-the-attention.md lists with what is swapped in each, and those of `register_family`. Attention goes through
    `attention`, norm of queries and keys and rotation through `qk_norm_rope`, where the model's fit; gate, residual,
    norm and modulation of the blocks that a family knows through `adaptive_norm`. What does not fit stays in the
    model's own code. Weights, state dict and gradients' names do not change; outputs and gradients agree up to rounding
    (below float32 they differ, since each pass rounds once here).

    Norms whose call is more than their class's forward (hooks, offloading, parametrisations, adapters, weights on
    another device) are called as they are; that is looked at in every call, so that models may be offloaded, adapted
    and hooked before and after. Not swapped are attention modules whose processor is not diffusers' own for that model,
    blocks whose forward is not, and models that diffusers computes in parallel. Single calls that do not fit, such as
    those with a rotation that is learned, go to the model's own code. The result names all of these.

    Args:
        model: any module, or a pipeline: an object whose `components` by name are modules among others.
        backend: of `attention`: "auto" or a name that `explain` gives.
        parts: "attention", "norm" or both: what to swap.
        timestep_per: "frame" is a promise about a Wan that is given a timestep for each token (Wan2.2-TI2V-5B): that
            those of one latent frame are equal. Time is then embedded once for each frame, and the modulation held as a
            row for each frame instead of one for each token (2 GB a block at 27,280 tokens). A broken promise fails an
            assertion.
        group: process group over whose ranks the tokens of a Wan, or text and video of a CogVideoX, are divided between
            its first and its last block (`divided.py`): every rank calls the model with the same arguments and gets the
            same result; gradients are to be averaged over the group, as under data parallelism.
        context: with a group how attention exchanges tokens: "auto", "ulysses" or "ring", as in `attention`.
        strict: refuse to leave any module of the model to its own code.

    Returns:
        Accelerated: what is swapped and what is not, and `undo`; also a context manager.

    Raises:
        TypeError: neither a torch module nor a pipeline.
        ValueError: no such backend or part; timesteps for each frame without the norms; parts that no model in it has;
            with a group a model, or a part of one, that cannot be swapped whole; with `strict` any module that is
            left. The model is then as it was.
    """
    roots = _roots(model)
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend {backend!r}: expected auto, {', '.join(BACKENDS)}")
    if not parts or isinstance(parts, str) or not set(parts) <= set(PARTS):
        raise ValueError(f"parts {parts!r}: expected some of {PARTS}")
    if timestep_per not in ("token", "frame") or (timestep_per == "frame" and "norm" not in parts):
        raise ValueError(f'timestep_per {timestep_per!r}: expected token, or, with "norm" among the parts, frame')
    accelerated = Accelerated(type(model).__name__, backend, parts, roots)
    known = _models(roots)
    _check([family for *_, family in known], parts, group)
    try:
        for path, transformer, family in known:
            _swap(accelerated, path, transformer, family, timestep_per, group, context)
        accelerated.unknown = _unknown(accelerated.model, roots, known)
        left = accelerated.left if strict or group is not None else {}
        if left:
            first = "; ".join(f"{path} is left alone: {why}" for path, why in list(left.items())[:3])
            raise ValueError(f"{'strict' if group is None else 'group'}: {first}")
    except BaseException:
        accelerated.undo()
        raise
    return accelerated


def _roots(model: Any) -> dict[str, nn.Module]:
    """The module itself under the name "", or a pipeline's modules by their names."""
    if isinstance(model, nn.Module):
        return {"": model}
    components = getattr(model, "components", None)
    if not isinstance(components, dict):
        raise TypeError(f"model: expected a torch.nn.Module or a pipeline, got {type(model).__name__}")
    return {name: part for name, part in components.items() if isinstance(part, nn.Module)}


def _models(roots: dict[str, nn.Module]) -> list[tuple[str, nn.Module, Family]]:
    """(path, model, family) of every known model, each once."""
    found: dict[int, tuple[str, nn.Module, Family]] = {}
    for name, root in roots.items():
        for path, module in root.named_modules(prefix=name):
            if (family := family_of(module)) is not None:
                found.setdefault(id(module), (path, module, family))
    return list(found.values())


def _unknown(
    name: str, roots: dict[str, nn.Module], known: list[tuple[str, nn.Module, Family]]
) -> dict[str, str]:  # fmt: skip
    """Models with attention modules of diffusers that no family knows; autoencoders apart."""
    names = ", ".join(family.name for family in registered_families())
    if not known:
        return {name: f"not known; known are {names}"}
    inside = {id(module) for _, transformer, _ in known for module in transformer.modules()}
    found = {}
    for prefix, root in roots.items():
        owners = {"": prefix}
        for path, module in root.named_modules():
            if hasattr(module, "attn_processors"):
                owners[path] = f"{prefix}.{path}".strip(".")
            if id(module) in inside or not has_processor(module):
                continue
            owner = max((o for o in owners if not o or path.startswith(f"{o}.")), key=len)
            kind = type(root.get_submodule(owner)).__name__
            if not kind.startswith("Autoencoder"):
                found[owners[owner] or kind] = f"{kind} is not known; known are {names}"
    return found


def _check(known: list[Family], parts: Sequence[Part], group: Any) -> None:
    """ValueError for parts that none of these models has, or, with a group, that one of them has not."""
    if group is not None:
        if other := [family.name for family in known if not family.divides]:
            able = " and ".join(family.name for family in registered_families() if family.divides)
            raise ValueError(f"group: divides the tokens of {able}, not of {other[0]}")
        if set(parts) != set(PARTS):
            raise ValueError(f"group: needs all parts, {' and '.join(PARTS)}")
    names = ", ".join(dict.fromkeys(family.name for family in known))
    if known and "attention" not in parts and all(family.blocks is None for family in known):
        raise ValueError(f"parts {tuple(parts)!r}: nothing in {names}, whose blocks keep their own norms")


def _swap(
    accelerated: Accelerated, path: str, transformer: nn.Module, family: Family, timestep_per: str, group: Any,
    context: Context,
) -> None:  # fmt: skip
    setting = Setting(accelerated.backend, accelerated.passed, accelerated.called)
    if group is not None:
        setting.divided = DividedTokens(group, getattr(transformer, family.divides), context)
    accelerated.hooks.append(_Hooks(setting))
    parallel = getattr(transformer, "_parallel_config", None) is not None
    if "attention" in accelerated.parts:
        replacement = family.attention(transformer, setting)
        for inner, attn in transformer.named_modules(prefix=path):
            if has_processor(attn):
                new = _PARALLEL if parallel else replacement(inner, attn)
                own: Any = attn.processor
                if isinstance(new, Processor):
                    set_processor(attn, new)
                    accelerated.sites[inner] = Site(attn, new, own)
                else:
                    accelerated.sites[inner] = Site(attn, None, own, new)
    if "norm" in accelerated.parts and family.blocks is None:
        accelerated.notes[path or family.name] = "its blocks keep their own norms and modulation"
    elif "norm" in accelerated.parts and family.blocks is not None:
        of = family.blocks(transformer, setting)
        for inner, block in transformer.named_modules(prefix=path):
            forward = of(inner, block)
            if forward is None:
                continue
            if isinstance(forward, str) or parallel:
                accelerated.sites[inner] = Site(block, why=forward if isinstance(forward, str) else _PARALLEL)
            else:
                forward.swap(innermost(block))
                accelerated.sites[inner] = Site(block, forward)
    if timestep_per == "frame":
        _swap_timesteps(accelerated, path, transformer, family, setting)


def _swap_timesteps(
    accelerated: Accelerated, path: str, transformer: nn.Module, family: Family, setting: Setting
) -> None:  # fmt: skip
    if family.timesteps is None:
        accelerated.notes[path or family.name] = "timestep_per='frame' is nothing in this model"
        return
    inner = f"{path}.condition_embedder".removeprefix(".")
    new = family.timesteps(inner, transformer, setting)
    if isinstance(new, str):
        accelerated.sites[inner] = Site(transformer.get_submodule("condition_embedder"), why=new)
        return
    for replacement in new:
        if isinstance(replacement, ForwardReplacement):
            accelerated.sites[replacement.path] = Site(replacement.module, replacement)
        else:
            accelerated.hooks.append(replacement)


class _Hooks:
    """The hooks of a setting, which its family adds as it swaps."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def undo(self) -> None:
        for hook in self.setting.hooks:
            hook.undo()
        self.setting.hooks.clear()


