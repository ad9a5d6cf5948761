"""LayerNorms of other libraries in place of `F.layer_norm`, and FlashInfer's fused forward kernel.

No extra of this project installs them: each is imported when it is used, and raises `Absent` with the reason where that
fails.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[Tensor], Tensor]
EPSILON = 1e-6  # of every norm here


class Absent(Exception):
    """A peer that cannot run on this machine; the message is the reason."""


def _imported(name: str, part: str) -> Any:
    """An attribute of a module; raises Absent where its import fails."""
    try:
        return getattr(importlib.import_module(name), part)
    except (ImportError, OSError, RuntimeError, AttributeError) as fault:
        raise Absent(f"{name}.{part} cannot be imported ({str(fault)[:150]})") from None


def _parameters(width: int, like: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias, or ones and zeros where they are None, for libraries that require both."""
    made = like.new_ones(width) if weight is None else weight
    return made, like.new_zeros(width) if bias is None else bias


def torch_norm(width: int, like: Tensor, weight: Tensor | None, bias: Tensor | None) -> Norm:
    """F.layer_norm, with weight and bias in the dtype of its input."""

    def norm(x: Tensor) -> Tensor:
        scale, offset = (None if t is None else t.to(x.dtype) for t in (weight, bias))
        return F.layer_norm(x, (width,), scale, offset, EPSILON)

    return norm


def liger(width: int, like: Tensor, weight: Tensor | None, bias: Tensor | None) -> Norm:
    """Liger-Kernel's Triton LayerNorm, always with weight and bias."""
    function = _imported("liger_kernel.transformers.functional", "liger_layer_norm")
    _needs_gpu(like)
    both = _parameters(width, like, weight, bias)
    return lambda x: function(x, *both, EPSILON)


def apex(width: int, like: Tensor, weight: Tensor | None, bias: Tensor | None) -> Norm:
    """The fused LayerNorm of NVIDIA's apex, recognised by its files: an unrelated PyPI package has the same name."""
    spec = importlib.util.find_spec("apex")
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not any((Path(folder) / "normalization" / "fused_layer_norm.py").exists() for folder in folders):
        raise Absent("the package named apex is not NVIDIA's" if spec else "NVIDIA apex is not installed")
    _imported("fused_layer_norm_cuda", "forward")  # without it apex silently uses F.layer_norm
    _needs_gpu(like)
    if weight is None or bias is None:
        plain = _imported("apex.normalization.fused_layer_norm", "fused_layer_norm")
        return lambda x: plain(x, (width,), EPSILON)
    affine = _imported("apex.normalization.fused_layer_norm", "fused_layer_norm_affine")
    return lambda x: affine(x, weight, bias, (width,), EPSILON)


def transformer_engine(width: int, like: Tensor, weight: Tensor | None, bias: Tensor | None) -> Norm:
    """TransformerEngine's LayerNorm, with the given weight and bias (parameters), or its own where they are None."""
    module = _imported("transformer_engine.pytorch", "LayerNorm")
    _needs_gpu(like)
    norm = module(width, eps=EPSILON, params_dtype=like.dtype)
    for name, given in (("weight", weight), ("bias", bias)):
        getattr(norm, name).requires_grad_(given is not None)
        if given is not None:
            assert isinstance(given, nn.Parameter)
            setattr(norm, name, given)
    return norm  # type: ignore[no-any-return]


def _needs_gpu(like: Tensor) -> None:
    if not like.is_cuda:
        raise Absent("it runs on CUDA only")


NORMS = {"Liger LayerNorm": liger, "apex LayerNorm": apex, "TransformerEngine LayerNorm": transformer_engine}


def flashinfer(case: Any, x: Tensor, y: Tensor, tables: dict[str, Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
    """FlashInfer's fused gate, residual, LayerNorm, scale and shift: forward, 3072 channels, bfloat16 rows per token.

    x, y: [1, S, C]; tables: gate, scale and shift [1, S, C]. The kernel wants rows as views of one tensor [1, S, 6, C].
    """
    name = "fused_dit_gate_residual_layernorm_scale_shift"
    function = _imported("flashinfer.diffusion_ops", name)
    _needs_gpu(x)
    if case.affine or not case.modulated:
        raise Absent(f"{name} takes gate, scale and shift, and no weight and bias")
    if x.shape[-1] != 3072 or x.dtype != torch.bfloat16:
        raise Absent(f"{name} supports 3072 channels in bfloat16 only")
    six = x.new_empty(1, x.shape[1], 6, x.shape[2])
    rows = [six[:, :, place].copy_(tables[part]) for place, part in enumerate(("gate", "scale", "shift"))]

    def work() -> tuple[Tensor, Tensor]:
        stream, out = function(y, x, *rows, epsilon=EPSILON)
        return stream, out

    return work

