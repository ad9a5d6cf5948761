"""Depth losses: invariances, closed forms against solvers, native code against the definition in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry import depth_loss, depth_losses
from phys4d.kernels.geometry.losses.depth_ops import depth_losses_op
from phys4d.kernels.geometry.losses.depth_reference import KINDS

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])
built = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])


def example(clips=2, frames=3, height=7, width=21, *, seed=0, dtype=torch.float64, scale=1.0) -> tuple[Tensor, ...]:
    """predicted, target, valid, weight; the second frame of the first clip has nothing valid."""
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, frames, height, width)
    target = torch.rand(shape, generator=generator, dtype=torch.float64) * 3 + 0.5
    predicted = (target * 0.8 + 0.3) * (1 + 0.2 * torch.randn(shape, generator=generator).double()).abs() + 0.1
    valid = torch.rand(shape, generator=generator) > 0.25
    valid[:1, 1:2] = False
    weight = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (predicted * scale).to(dtype), (target * scale).to(dtype), valid, weight.to(dtype)


def gradients(predicted: Tensor, target: Tensor, valid: Tensor, **asked) -> tuple[Tensor, Tensor]:
    """All four losses, and the gradient of a mixture of them."""
    predicted = predicted.detach().requires_grad_()
    values = torch.stack(depth_losses(predicted, target, valid, **asked))
    mixed = (values * torch.tensor([1.0, 0.5, 2.0, 0.3], dtype=values.dtype)).sum()
    return values.detach(), torch.autograd.grad(mixed, predicted)[0]


@built
@settings(max_examples=50, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 20), st.integers(1, 40)),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    scope=st.sampled_from(["frame", "clip"]),
    scales=st.integers(1, 5),
    weighted=st.booleans(),
)
def test_native_code_is_as_exact_as_torch_would_be(sizes, seed, scale, scope, scales, weighted) -> None:
    predicted, target, valid, weight = example(*sizes, seed=seed, scale=scale, dtype=torch.float32)
    asked = {"scope": scope, "scales": scales}

    def found(dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor]:
        each = weight.to(dtype) if weighted else None
        return gradients(predicted.to(dtype), target.to(dtype), valid, weight=each, backend=backend, **asked)

    exact = found(torch.float64, "reference")
    torch.testing.assert_close(found(torch.float64, "native"), exact, rtol=1e-9, atol=1e-12)
    ours, theirs = found(torch.float32, "native"), found(torch.float32, "reference")
    for at in range(4):
        size = exact[0][at].abs() + 1e-30
        fault = (theirs[0][at].double() - exact[0][at]).abs()
        noise = 1e-6 * float(target.max()) ** 2 if KINDS[at] == "scale_shift" else 1e-6
        assert (ours[0][at].double() - exact[0][at]).abs() <= 2 * fault + 1e-5 * size + noise
    fault = (theirs[1].double() - exact[1]).abs().max()
    assert (ours[1].double() - exact[1]).abs().max() <= 2 * fault + 1e-5 * exact[1].abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scope", ["frame", "clip"])
def test_gradients_are_those_of_the_values(backend: str, scope: str) -> None:
    predicted, target, valid, weight = example(1, 2, 4, 5, seed=2)

    def values(predicted: Tensor) -> Tensor:
        return torch.stack(
            depth_losses(predicted, target, valid, weight=weight, scope=scope, scales=2, backend=backend)
        )

    assert torch.autograd.gradcheck(values, predicted.requires_grad_())


@pytest.mark.parametrize("backend", BACKENDS)
def test_scale_and_shift_are_those_of_least_squares(backend: str) -> None:
    predicted, target, valid, weight = example()
    by_frame = []
    for t in range(3):
        seen = valid[1, t]
        p, d, w = (x[1, t][seen].numpy() for x in (predicted, target, weight))
        system = np.stack((p, np.ones_like(p)), 1) * np.sqrt(w)[:, None]
        residual = np.linalg.lstsq(system, d * np.sqrt(w), rcond=None)[1][0]
        by_frame.append(residual / w.sum())
    second = (x[1:] for x in (predicted, target, valid))
    found = depth_loss(*second, weight=weight[1:], kind="scale_shift", backend=backend)
    assert found.item() == pytest.approx(np.mean(by_frame), rel=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scope", ["frame", "clip"])
def test_what_each_kind_does_not_see(backend: str, scope: str) -> None:
    _, target, valid, weight = example()
    asked = {"weight": weight, "scope": scope, "backend": backend}
    scaled = depth_losses(target * 1.7, target, valid, invariance=1.0, **asked)
    assert scaled.log_l1.item() == pytest.approx(math.log(1.7), rel=0.4)  # a frame without a valid pixel counts less
    assert max(scaled.silog.item(), scaled.scale_shift.item(), scaled.gradient.item()) < 1e-12
    partly = depth_losses(target * 1.7, target, valid, invariance=0.85, **asked)
    assert partly.silog.item() == pytest.approx(0.15 * math.log(1.7) ** 2, rel=1e-9)
    affine = depth_losses(target * 0.5 + 4, target, valid, **asked)
    assert affine.scale_shift < 1e-12 < 1e-3 < min(affine.silog.item(), affine.gradient.item())
    each = target * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).view(3, 1, 1)
    rest = (each, target, valid)
    assert depth_loss(*rest, kind="scale_shift", scope="frame", backend=backend) < 1e-12
    assert depth_loss(*rest, kind="scale_shift", scope="clip", backend=backend) > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_one_step_is_seen_at_the_scales_that_hold_it(backend: str) -> None:
    target = torch.ones(1, 1, 4, 8, dtype=torch.float64)
    predicted = target.clone()
    predicted[..., 4:] = math.e  # a step between columns 3 and 4
    everything = torch.ones_like(target, dtype=torch.bool)
    steps, pairs = [4, 2, 1], [4 * 7 + 3 * 8, 2 * 3 + 1 * 4, 1 * 1 + 0]
    for scales in (1, 2, 3):
        found = depth_loss(predicted, target, everything, kind="gradient", scales=scales, backend=backend)
        assert found.item() == pytest.approx(sum(s / p for s, p in zip(steps[:scales], pairs, strict=False)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_trimming_drops_outliers_and_nothing_else(backend: str) -> None:
    _, target, _, _ = example(1, 2, 10, 10)
    valid = torch.ones_like(target, dtype=torch.bool)
    predicted = 2 * target + 1
    target = target.clone()
    target[..., 0, :5] += 50  # five of a hundred pixels
    asked = {"kind": "scale_shift", "backend": backend}
    assert depth_loss(predicted, target, valid, **asked) > 0.1
    assert depth_loss(predicted, target, valid, trim=0.04, **asked) > 0.01
    assert depth_loss(predicted, target, valid, trim=0.05, **asked) < 1e-12
    predicted.requires_grad_()
    depth_loss(predicted, target * target, valid, trim=0.5, **asked).backward()
    assert predicted.grad is not None
    assert predicted.grad.flatten(2).count_nonzero(-1).tolist() == [[50, 50]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_masked_reaches_nothing(backend: str) -> None:
    predicted, target, valid, weight = example()
    clean = gradients(predicted, target, valid, weight=weight, backend=backend)
    spoiled = [t.masked_fill(~valid, torch.nan) for t in (predicted, target, weight)]
    found = gradients(*spoiled[:2], valid, weight=spoiled[2], backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(found, clean, strict=True))
    assert not found[1][~valid].any()
    for numbers in gradients(*spoiled[:2], torch.zeros_like(valid), backend=backend):
        assert not numbers.any()
    flat = gradients(torch.ones_like(target), target, valid, backend=backend)  # no scale fits a constant
    assert flat[0].isfinite().all() and flat[1].isfinite().all()


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_and_strides_do_not_change_a_bit_and_every_element_is_written(dtype: torch.dtype) -> None:
    predicted, target, valid, weight = example(2, 5, 33, 41, dtype=dtype)
    threads, found = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(gradients(predicted, target, valid, weight=weight, backend="native"))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    turned = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (predicted, target, valid)]
    found.append(gradients(*turned, weight=weight, backend="native"))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_is_a_well_formed_operator(dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "reference":
        monkeypatch.setattr(native, "status", lambda: (False, "not built"))
    predicted, target, valid, weight = example(dtype=dtype)
    arguments = (predicted.requires_grad_(), target, valid, weight, False, 0.85, 3, 15)
    assert set(torch.library.opcheck(depth_losses_op, arguments).values()) == {"SUCCESS"}


def test_compiles_into_one_graph_and_autocast_computes_in_float32() -> None:
    predicted, target, valid, weight = example(dtype=torch.float32)
    predicted.requires_grad_()

    def loss(predicted: Tensor) -> Tensor:
        return torch.stack(depth_losses(2 * predicted, target, valid, weight=weight)).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(predicted), loss(predicted))
    expected, found = (torch.autograd.grad(f(predicted), predicted)[0] for f in (loss, compiled))
    assert torch.equal(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        low = depth_losses_op(predicted.bfloat16(), target.bfloat16(), valid, None, False, 0.85, 2, 15)[0]
    p, d = predicted.bfloat16().float(), target.bfloat16().float()
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, depth_losses_op(p, d, valid, None, False, 0.85, 2, 15)[0])


@built
@given(st.lists(st.floats(2.0**-149, 2.0**127, width=32), min_size=1, max_size=40))
def test_the_logarithm_is_right_to_two_units_in_the_last_place(numbers: list[float]) -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(numbers, dtype=dtype).view(-1, 1, 1, 1)  # every number a clip of its own
        one = torch.ones_like(x)
        found = depth_losses_op(x, one, one > 0, None, False, 0.85, 1, 1)[0][0]
        for mine, number in zip(found.tolist(), numbers, strict=True):
            exact = abs(math.log(number))
            assert abs(mine - exact) <= 2 * torch.finfo(dtype).eps * exact


def test_wrong_options_are_named() -> None:
    predicted, target, valid, weight = example()
    for asked, message in [
        ({"kind": "l2"}, "kind: expected one of log_l1"),
        ({"scope": "batch"}, 'scope: expected "frame" or "clip"'),
        ({"scales": 9, "kind": "gradient"}, "scales: expected from 1 to 8, got 9"),
        ({"trim": 0.2}, "trim: expected .* only for scale_shift, got 0.2 for log_l1"),
        ({"backend": "gpu"}, "backend: expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            depth_loss(predicted, target, valid, **asked)
    with pytest.raises(RuntimeError, match="the triton backend cannot serve cpu: Triton kernels run on CUDA"):
        depth_loss(predicted, target, valid, backend="triton")
    target.requires_grad_()
    with pytest.raises(RuntimeError, match='target wants a gradient, which only backend="reference" gives'):
        depth_loss(predicted, target, valid, backend="native")
    depth_loss(predicted, target, valid, weight=weight).backward()
    assert target.grad is not None and target.grad.abs().sum() > 0
