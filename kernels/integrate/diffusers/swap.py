"""`accelerate`: which models are known, and how their modules are swapped."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from phys4d.kernels.attention.backends import BACKENDS
from phys4d.kernels.integrate.diffusers.accelerated import Accelerated
from phys4d.kernels.integrate.diffusers.blocks import SWAPS, BlockForward
from phys4d.kernels.integrate.diffusers.cogvideox import cogvideox
from phys4d.kernels.integrate.diffusers.cogvideox_block import cogvideox_blocks
from phys4d.kernels.integrate.diffusers.hunyuan import hunyuan
from phys4d.kernels.integrate.diffusers.latte import latte
from phys4d.kernels.integrate.diffusers.ltx import ltx
from phys4d.kernels.integrate.diffusers.processor import Processor, Setting
from phys4d.kernels.integrate.diffusers.wan import wan
from phys4d.kernels.integrate.diffusers.wan_block import FrameTimesteps, wan_blocks

Part = Literal["attention", "norm"]
PARTS: tuple[Part, ...] = ("attention", "norm")

# (transformer, setting) -> (path, attention module) -> its new processor, or why it is not swapped
Family = Callable[[Any, Setting], Callable[[str, Any], Processor | str]]

_FAMILIES: dict[str, Family] = {
    "WanTransformer3DModel": wan,
    "CogVideoXTransformer3DModel": cogvideox,
    "LatteTransformer3DModel": latte,
    "LTXVideoTransformer3DModel": ltx,
    "HunyuanVideoTransformer3DModel": hunyuan,
}

# (transformer, setting) -> (path, module) -> its new forward, or why it is not swapped; None where it is no block
Blocks = Callable[[Any, Setting], Callable[[str, Any], BlockForward | str | None]]

_BLOCKS: dict[str, Blocks] = {"WanTransformer3DModel": wan_blocks, "CogVideoXTransformer3DModel": cogvideox_blocks}
_PARALLEL = "diffusers computes this model in parallel"


def _family(module: nn.Module) -> str | None:
    """The name of the known class among this module's classes; None if there is none.

    By name, so that diffusers is not imported for it, and including base classes, for the subclasses that FSDP makes.
    """
    for kind in type(module).__mro__:
        if kind.__module__.startswith("diffusers.") and kind.__name__ in _FAMILIES:
            return kind.__name__
    return None


def _swap_attention(family: str, prefix: str, transformer: nn.Module, report: Accelerated) -> None:
    setting = Setting(report.backend, report.passed)
    replacement = _FAMILIES[family](transformer, setting)
    report._undo_steps += [hook.remove for hook in setting.hooks]
    for inner, attn in transformer.named_modules(prefix=prefix):
        if not hasattr(attn, "set_processor") or not hasattr(attn, "processor"):
            continue
        new = _PARALLEL if _parallel(transformer) else replacement(inner, attn)
        if isinstance(new, str):
            report.left[inner] = new
            continue
        own = attn.processor
        attn.set_processor(new)  # type: ignore[operator]
        report._undo_steps.append(lambda attn=attn, own=own: attn.set_processor(own))  # type: ignore[misc]
        report.swapped[inner] = new.swaps


def _parallel(transformer: nn.Module) -> bool:
    return getattr(transformer, "_parallel_config", None) is not None


def _swap_norms(family: str, prefix: str, transformer: nn.Module, report: Accelerated) -> None:
    if family not in _BLOCKS:
        return
    replacement = _BLOCKS[family](transformer, Setting(report.backend, report.passed))
    for inner, block in transformer.named_modules(prefix=prefix):
        new = replacement(inner, block)
        if isinstance(new, BlockForward) and _parallel(transformer):
            new = _PARALLEL
        if isinstance(new, str):
            report.left[inner] = new
        elif new is not None:
            new.swap()
            report._undo_steps.append(new.undo)
            report.swapped[inner] = SWAPS


def _swap_timesteps(prefix: str, transformer: Any, report: Accelerated) -> None:
    path = f"{prefix}.condition_embedder".removeprefix(".")
    if not all(isinstance(block.__dict__.get("forward"), BlockForward) for block in transformer.blocks):
        report.left[path] = "a block was not swapped, and cannot read one row per frame"
        return
    new = FrameTimesteps(transformer.condition_embedder, transformer.config.patch_size[0])
    new.swap()
    hook = transformer.register_forward_pre_hook(new.before, with_kwargs=True)
    report._undo_steps += [hook.remove, new.undo]
    report.swapped[path] = "a timestep for each frame"


def accelerate(
    model: nn.Module, *, backend: str = "auto", parts: Sequence[Part] = PARTS,
    timestep_per: Literal["token", "frame"] = "token",
) -> Accelerated:  # fmt: skip
    """Swaps attention, and what is between the layers, of diffusers' video transformers for what this package computes.

    Known are WanTransformer3DModel, CogVideoXTransformer3DModel, LatteTransformer3DModel, LTXVideoTransformer3DModel
    and HunyuanVideoTransformer3DModel (diffusers 0.42), as `model` itself or anywhere inside it. Attention goes
    through `attention`, norm of queries and keys and rotation through `qk_norm_rope`, where the model's fit; in the
    blocks of Wan and CogVideoX gate, residual, norm and modulation go through `adaptive_norm`. What does not fit stays
    in the model's own code. Weights, state dict and gradients' names do not change; outputs and gradients agree up to
    rounding (below float32 they differ, since each pass rounds once here).

    Not swapped: attention modules whose processor is not diffusers' own for that model, blocks whose forward is not,
    or whose model diffusers computes in parallel. Single calls with a mask that is not a number of keys go to the
    model's own processor. The result names all of these. A backend that was chosen by diffusers'
    set_attention_backend has no effect while it is swapped.

    Args:
        model: any module.
        backend: of `attention`: "auto" or a name that `explain` gives.
        parts: "attention", "norm" or both: what to swap.
        timestep_per: "frame" is a promise about a Wan that is given a timestep for each token (Wan2.2-TI2V-5B): that
            those of one latent frame are equal. Time is then embedded once for each frame, and the modulation held as a
            row for each frame instead of one for each token (2 GB a block at 27,280 tokens). A broken promise fails an
            assertion.

    Returns:
        Accelerated: what was swapped and what was not, and `undo`; also a context manager.

    Raises:
        TypeError: not a torch module.
        ValueError: no such backend or part; timesteps for each frame without the norms.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend {backend!r}: expected auto, {', '.join(BACKENDS)}")
    if not parts or isinstance(parts, str) or not set(parts) <= set(PARTS):
        raise ValueError(f"parts {parts!r}: expected some of {PARTS}")
    if timestep_per not in ("token", "frame") or (timestep_per == "frame" and "norm" not in parts):
        raise ValueError(f'timestep_per {timestep_per!r}: expected token, or, with "norm" among the parts, frame')
    report = Accelerated(type(model).__name__, backend)
    known = [(path, module, family) for path, module in model.named_modules() if (family := _family(module))]
    for path, module, family in known:
        if "attention" in parts:
            _swap_attention(family, path, module, report)
        if "norm" in parts:
            _swap_norms(family, path, module, report)
        if timestep_per == "frame" and family == "WanTransformer3DModel":
            _swap_timesteps(path, module, report)
    if not known:
        report.left[type(model).__name__] = f"not known; known are diffusers' {', '.join(_FAMILIES)}"
    return report
