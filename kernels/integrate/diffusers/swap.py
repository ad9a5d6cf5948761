"""Which models are known, and the swap itself."""

from collections.abc import Callable
from typing import Any

from torch import nn

from phys4d.kernels.attention.backends import BACKENDS
from phys4d.kernels.integrate.diffusers.accelerated import Accelerated
from phys4d.kernels.integrate.diffusers.cogvideox import cogvideox
from phys4d.kernels.integrate.diffusers.hunyuan import hunyuan
from phys4d.kernels.integrate.diffusers.latte import latte
from phys4d.kernels.integrate.diffusers.ltx import ltx
from phys4d.kernels.integrate.diffusers.processor import Processor, Setting
from phys4d.kernels.integrate.diffusers.wan import wan

# (transformer, setting) -> (path, attention module) -> its new processor, or why it is left alone
Family = Callable[[Any, Setting], Callable[[str, Any], Processor | str]]

_FAMILIES: dict[str, Family] = {
    "WanTransformer3DModel": wan,
    "CogVideoXTransformer3DModel": cogvideox,
    "LatteTransformer3DModel": latte,
    "LTXVideoTransformer3DModel": ltx,
    "HunyuanVideoTransformer3DModel": hunyuan,
}


def _family(module: nn.Module) -> Family | None:
    """By the names of its classes: a model that nobody loaded imports no diffusers, and FSDP's subclasses are known."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("diffusers.") and kind.__name__ in _FAMILIES:
            return _FAMILIES[kind.__name__]
    return None


def _swap(family: Family, prefix: str, transformer: nn.Module, report: Accelerated) -> None:
    setting = Setting(report.backend, report.passed)
    replacement = family(transformer, setting)
    report._ways_back += [hook.remove for hook in setting.hooks]
    parallel = getattr(transformer, "_parallel_config", None) is not None
    for inner, attn in transformer.named_modules(prefix=prefix):
        if not hasattr(attn, "set_processor") or not hasattr(attn, "processor"):
            continue
        new = "diffusers computes this model in parallel" if parallel else replacement(inner, attn)
        if isinstance(new, str):
            report.left[inner] = new
            continue
        own = attn.processor
        attn.set_processor(new)  # type: ignore[operator]
        report._ways_back.append(lambda attn=attn, own=own: attn.set_processor(own))  # type: ignore[misc]
        report.swapped[inner] = new.swaps


def accelerate(model: nn.Module, *, backend: str = "auto") -> Accelerated:
    """Swaps the attention processors of diffusers' video transformers in `model` for ones that use this package.

    Known are WanTransformer3DModel, CogVideoXTransformer3DModel, LatteTransformer3DModel, LTXVideoTransformer3DModel
    and HunyuanVideoTransformer3DModel (diffusers 0.42), as `model` itself or anywhere inside it. Attention goes
    through `attention`, norm of queries and keys and rotation through `qk_norm_rope`, where the model's fit; what does
    not fit stays in the model's own code. Weights, state dict and gradients' names do not change; outputs and
    gradients agree up to rounding (below float32 they differ, since norm and rotation round once here).

    Not on the way: attention modules whose processor is not diffusers' own for that model, or whose model diffusers
    computes in parallel. Single calls with a mask that is not a number of keys go to the model's own processor. All of
    it is named in the result. A backend that was chosen by diffusers' set_attention_backend rests while it is swapped.

    Args:
        model: any module.
        backend: of `attention`: "auto" or a name that `explain` gives.

    Returns:
        Accelerated: what was swapped and what was not, and `undo`; also a context manager.

    Raises:
        TypeError: not a torch module.
        ValueError: no such backend.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend {backend!r}: expected auto, {', '.join(BACKENDS)}")
    report = Accelerated(type(model).__name__, backend)
    known = [(path, module, family) for path, module in model.named_modules() if (family := _family(module))]
    for path, module, family in known:
        _swap(family, path, module, report)
    if not known:
        report.left[type(model).__name__] = f"not known; known are diffusers' {', '.join(_FAMILIES)}"
    return report
