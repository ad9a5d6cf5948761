"""Calls of the public functions with the arguments of the named cases, on tensors without data (device "meta").

A call launches the kernels that it launches on a GPU, with the same arguments: shapes and strides are those of the
benchmarks, and data without an address counts as aligned, as all of CUDA's allocations are. `benchmarks/launches.py`
calls the kernels below the public functions; this page includes what autograd, norms and views do to the arguments.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from phys4d.benchmarks import geometry
from phys4d.benchmarks.cases import (
    ADAPTIVE_NORM,
    ATTENTION,
    DTYPE,
    GEOMETRY,
    NORM_ROPE,
    AdaptiveNormCase,
    AttentionCase,
    GeometryCase,
    NormRopeCase,
)
from phys4d.kernels.attention import attention
from phys4d.kernels.dispatch import backend
from phys4d.kernels.elementwise import QKNorm, Rope, TokenRows, adaptive_norm, qk_norm_rope
from phys4d.kernels.geometry import chamfer
from phys4d.kernels.geometry.clouds import chamfer_ops

META = torch.device("meta")


@contextlib.contextmanager
def kernels_on_meta() -> Iterator[None]:
    """Within it our operators launch their Triton kernels for tensors on "meta", instead of only giving shapes."""
    from torch._library.custom_ops import OPDEFS

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(backend, "TRITON_DEVICES", backend.TRITON_DEVICES | {"meta"}))
        stack.enter_context(mock.patch.object(chamfer_ops, "_check_lengths"))  # it would read them
        for name, op in OPDEFS.items():
            if name.startswith("phys4d::"):
                stack.enter_context(mock.patch.object(op, "_abstract_fn", op._init_fn))
        yield


def _empty(*shape: int, dtype: torch.dtype = DTYPE) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def _both_parts(
    call: Callable[..., Any], tensors: Sequence[Tensor], weights: Sequence[Tensor], gradients: Sequence[Tensor]
) -> None:
    """A call without gradients, and one with its backward pass, whose weights are fixed, then learnt."""
    with torch.no_grad():
        call(*tensors, *weights)
    for learnt in (False, True) if weights else (False,):
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        given = [weight.detach().requires_grad_(learnt) for weight in weights]
        torch.autograd.grad(call(*leaves, *given), [*leaves, *(given if learnt else [])], gradients)


def _attention(case: AttentionCase) -> None:
    q, k, v, dout = (_empty(case.batch, case.tokens, case.heads, case.dim) for _ in range(4))
    rope = None if case.lanes is None else Rope.make(case.grid, case.lanes, device=META)

    def call(q: Tensor, k: Tensor, v: Tensor, *weights: Tensor) -> Any:
        return attention(
            q, k, v, grid=case.grid, pattern=case.pattern, text=(case.words, "first") if case.words else None,
            qk_norm=QKNorm("rms", weights[0], weights[1]) if weights else None, rope=rope, backend="triton",
        )  # fmt: skip

    _both_parts(call, (q, k, v), [_empty(case.dim) for _ in range(2)] if case.lanes else [], [dout])


def _norm_rope(case: NormRopeCase) -> None:
    q, k, dq, dk = (_empty(1, case.tokens, case.heads, case.dim) for _ in range(4))
    lanes = case.heads * case.dim if case.kind == "rms_across_heads" else case.dim
    bias = _empty(lanes) if case.kind == "layer" else None
    rope = Rope.make(case.grid, case.lanes, layout=case.layout, device=META)

    def call(q: Tensor, k: Tensor, weight: Tensor) -> Any:
        norm = QKNorm(case.kind, weight, weight, bias, bias)
        return qk_norm_rope(q, k, norm, rope, grid=case.grid, text=(case.words, "first") if case.words else None)

    _both_parts(call, (q, k), [_empty(lanes)], (dq, dk))


def _adaptive_norm(case: AdaptiveNormCase) -> None:
    x, y, dstream, dout = (_empty(1, case.tokens, case.width) for _ in range(4))
    precision = torch.promote_types(DTYPE, case.table)
    names = ["weight", "bias"] if case.affine else []
    weights = [_empty(case.width, dtype=precision) for _ in names]
    if case.modulated:
        table = _empty(case.rows, 6, case.width, dtype=precision)
        names, weights = [*names, "gate", "scale", "shift"], [*weights, *(table[:, k] for k in range(3))]
    rows = None
    if case.mixed:
        made = TokenRows.of((torch.arange(case.tokens) >= case.tokens // case.rows).long()[None], case.rows)
        rows = TokenRows(*(getattr(made, field.name).to(META) for field in dataclasses.fields(made)))

    def call(x: Tensor, y: Tensor, *weights: Tensor) -> Any:
        given: dict[str, Any] = dict(zip(names, weights, strict=True))
        return adaptive_norm(x, y, rows=rows, **given)

    _both_parts(call, (x, y), weights, (dstream, dout))


def _geometry(case: GeometryCase) -> None:
    if case.op == "chamfer":
        clouds = [_empty(1, case.shape[0], 3, dtype=geometry.DTYPE).requires_grad_() for _ in range(2)]
        for search in ("exhaustive", "tree"):
            geometry.backward_of(chamfer(*clouds, backend="triton", search=search)[0], clouds)()
        return
    with META:  # the inputs are not computed
        found, leaves = geometry.rivals(case, META)
    with torch.no_grad():
        found["ours"]()
    geometry.backward_of(found["ours"](), leaves)()


def calls() -> dict[str, Callable[[], None]]:
    """The calls of every named case, by its name: bfloat16, geometry float32."""
    found: dict[str, Callable[[], None]] = {}
    for cases, call in (
        (ATTENTION, _attention), (NORM_ROPE, _norm_rope), (ADAPTIVE_NORM, _adaptive_norm), (GEOMETRY, _geometry),
    ):  # fmt: skip
        for case in cases:
            found[case.name] = lambda call=call, case=case: call(case)  # type: ignore[misc]
    return found
