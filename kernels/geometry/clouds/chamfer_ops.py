"""Chamfer distance as torch operators: `phys4d::chamfer` and its backward, with fake, autograd and autocast rules.

The indices of the nearest points are kept for backward, so that memory is linear and nothing is searched twice. Each
element of a gradient is added up by one program or thread in a fixed order: the same bits in every run.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.dispatch import autocast_to_float32, choose_backend, differentiable_once
from phys4d.kernels.geometry.clouds import chamfer_kernels
from phys4d.kernels.geometry.clouds.chamfer_reference import gradients_reference, mean_of, search_reference, value_of
from phys4d.kernels.geometry.clouds.nearest_native import nearest_native
from phys4d.kernels.geometry.clouds.neighbours import both_ways, plan


def forward(
    x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor, squared: bool, backend: str, search: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Chamfer distances [B] of x [B, N, D] and y [B, M, D], D 3 or 4, and nearest indices, int64 [B, N] and [B, M].

    x_lengths, y_lengths: int64 [B] on the clouds' device. Beyond them the indices are 0.
    """
    _check_lengths("x_lengths", x_lengths, x.shape[1])
    _check_lengths("y_lengths", y_lengths, y.shape[1])
    name, search = plan("chamfer", backend, search, x, y)
    if name == "reference":
        return search_reference(x, y, x_lengths, y_lengths, squared)
    if name == "native" and x.device.type == "cpu":
        found = torch.ops.phys4d.chamfer_search if search != "exhaustive" else _exhaustive_on_cpu
        return found(x, y, x_lengths, y_lengths, squared)
    x, y, *lengths = (t.contiguous() for t in (x, y, x_lengths, y_lengths))
    x_squares, nearest_in_y, y_squares, nearest_in_x = both_ways(name, search, x, y, *lengths)
    total = mean_of(x_squares, x_lengths, squared) + mean_of(y_squares, y_lengths, squared)
    return torch.where((x_lengths > 0) & (y_lengths > 0), total, 0).to(x.dtype), nearest_in_y, nearest_in_x


def _exhaustive_on_cpu(
    x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor, squared: bool
) -> tuple[Tensor, Tensor, Tensor]:
    nearest_in_y, nearest_in_x = (torch.zeros(c.shape[:2], dtype=torch.int64) for c in (x, y))
    for clip, (n, m) in enumerate(zip(x_lengths.tolist(), y_lengths.tolist(), strict=True)):
        if n and m:
            nearest_in_y[clip, :n] = nearest_native(x[clip, :n], y[clip, :m], "exhaustive")[1]
            nearest_in_x[clip, :m] = nearest_native(y[clip, :m], x[clip, :n], "exhaustive")[1]
    return value_of(x, y, x_lengths, y_lengths, nearest_in_y, nearest_in_x, squared), nearest_in_y, nearest_in_x


def _check_lengths(name: str, lengths: Tensor, most: int) -> None:
    inside = ((lengths >= 0) & (lengths <= most)).all()
    if lengths.is_cuda:  # without waiting for the device
        torch._assert_async(inside, f"{name}: expected counts from 0 to {most}")
    elif not inside:
        raise ValueError(f"{name}: expected counts from 0 to {most}, got {lengths.tolist()}")


chamfer_op = torch.library.custom_op("phys4d::chamfer", forward, mutates_args=())


@chamfer_op.register_fake
def _(x, y, x_lengths, y_lengths, squared, backend, search="auto"):  # type: ignore[no-untyped-def]
    nearest_in_y, nearest_in_x = (c.new_empty(c.shape[:2], dtype=torch.int64) for c in (x, y))
    return x.new_empty(len(x)), nearest_in_y, nearest_in_x


def backward(
    gradient: Tensor, x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor, nearest_in_y: Tensor,
    nearest_in_x: Tensor, squared: bool, backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients of x and y, shaped like them, for that of the value, `gradient` [B]; zeros in the padding."""
    if backend == "native" and x.device.type == "cuda":
        backend = "triton"  # there the native search has no gradient of its own
    name = choose_backend(backend, "chamfer", x)
    rest = gradient, x, y, x_lengths, y_lengths, nearest_in_y, nearest_in_x, squared
    if name == "native":
        return torch.ops.phys4d.chamfer_gradients(*rest)
    return chamfer_kernels.backward(*rest) if name == "triton" else gradients_reference(*rest)


chamfer_backward_op = torch.library.custom_op("phys4d::chamfer_backward", backward, mutates_args=())


@chamfer_backward_op.register_fake
def _(gradient, x, y, *rest):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), y.new_empty(y.shape)


differentiable_once(chamfer_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.squared, ctx.backend, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, gradient: Tensor, *_indices: Any) -> tuple[Any, ...]:
    gradients = chamfer_backward_op(gradient, *ctx.saved_tensors, ctx.squared, ctx.backend)
    return (*gradients, None, None, None, None, None)


chamfer_op.register_autograd(_backward, setup_context=_setup)
autocast_to_float32(chamfer_op)


def _held(
    x: Tensor, y: Tensor, x_lengths: Tensor, y_lengths: Tensor, nearest_in_y: Tensor, nearest_in_x: Tensor,
    squared: bool, backend: str,
) -> Tensor:  # fmt: skip
    """Chamfer distances [B] with partners that are given, int64 [B, N] and [B, M], instead of sought."""
    return value_of(x, y, x_lengths, y_lengths, nearest_in_y, nearest_in_x, squared)


held_op = torch.library.custom_op("phys4d::chamfer_held", _held, mutates_args=())


@held_op.register_fake
def _(x, *rest):  # type: ignore[no-untyped-def]
    return x.new_empty(len(x))


def _held_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.squared, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _held_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    gradients = chamfer_backward_op(gradient, *ctx.saved_tensors, ctx.squared, ctx.backend)
    return (*gradients, None, None, None, None, None, None)


held_op.register_autograd(_held_backward, setup_context=_held_setup)
autocast_to_float32(held_op)
