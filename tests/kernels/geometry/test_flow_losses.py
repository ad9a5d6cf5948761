"""Flow losses: closed forms, native code against the definition in float64, masks."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry import flow_loss
from phys4d.kernels.geometry.losses.flow_ops import flow_loss_op

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])
built = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])
KINDS = ["l1", "charbonnier", "epe", "laplace"]


def example(clips=2, channels=2, frames=3, height=5, width=7, *, seed=0, dtype=torch.float64) -> tuple[Tensor, ...]:
    """predicted, target, valid, weight; a few pixels have no error at all."""
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, channels, frames, height, width)
    target = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    predicted = target + torch.randn(shape, generator=generator, dtype=torch.float64)
    pixels = (clips, frames, height, width)
    valid = torch.rand(pixels, generator=generator) > 0.25
    right = torch.rand(pixels, generator=generator) < 0.1
    predicted = torch.where(right.unsqueeze(1), target, predicted)
    weight = torch.rand(pixels, generator=generator, dtype=torch.float64)
    return predicted.to(dtype), target.to(dtype), valid, weight.to(dtype)


def confidence_of(predicted: Tensor) -> Tensor:
    """[B, 2, ...], the same for every dtype."""
    shape = (predicted.shape[0], 2, *predicted.shape[2:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32).to(predicted.dtype)


def gradients(predicted: Tensor, target: Tensor, valid: Tensor, *, kind: str, spoiled=False, **asked) -> list[Tensor]:
    """The loss, and its gradients by predicted and, for laplace, confidence (spoiled: NaN where masked)."""
    leaves = [predicted.detach().requires_grad_()]
    if kind == "laplace":
        confidence = confidence_of(predicted)
        if spoiled:
            confidence.masked_fill_(~valid.unsqueeze(1), torch.nan)
        leaves.append(confidence.requires_grad_())
    asked["confidence"] = leaves[1] if kind == "laplace" else None
    value = flow_loss(leaves[0], target, valid, kind=kind, **asked)  # type: ignore[arg-type]
    return [value.detach(), *torch.autograd.grad(value, leaves)]


@built
@settings(max_examples=50, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 300)),
    seed=st.integers(0, 999),
    kind=st.sampled_from(KINDS),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    weighted=st.booleans(),
)
def test_native_code_is_as_exact_as_torch_would_be(sizes, seed, kind, scale, weighted) -> None:
    predicted, target, valid, weight = example(*sizes, seed=seed, dtype=torch.float32)
    predicted, target = predicted * scale, target * scale

    def found(dtype: torch.dtype, backend: str) -> list[Tensor]:
        each = weight.to(dtype) if weighted else None
        return gradients(predicted.to(dtype), target.to(dtype), valid, weight=each, kind=kind, backend=backend)

    exact = found(torch.float64, "reference")
    torch.testing.assert_close(found(torch.float64, "native"), exact, rtol=1e-10, atol=1e-16)
    for mine, other, true in zip(found(torch.float32, "native"), found(torch.float32, "reference"), exact, strict=True):
        fault = (other.double() - true).abs().max()
        assert (mine.double() - true).abs().max() <= 2 * fault + 2e-6 * true.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_masked_values_and_perfect_pixels_give_no_gradient(backend: str, kind: str) -> None:
    predicted, target, valid, weight = example()
    clean = gradients(predicted, target, valid, weight=weight, kind=kind, backend=backend)
    spoiled = [t.masked_fill(~valid.unsqueeze(1), torch.nan) for t in (predicted, target)]
    asked = {"weight": weight.masked_fill(~valid, torch.nan), "kind": kind, "backend": backend}
    found = gradients(*spoiled, valid, **asked, spoiled=True)
    assert all(torch.equal(a, b) for a, b in zip(found, clean, strict=True))
    still = ~valid.unsqueeze(1) | (predicted == target)
    assert still.any() and not found[1][still.expand_as(found[1])].any()
    for numbers in gradients(*spoiled, torch.zeros_like(valid), kind=kind, backend=backend, spoiled=True):
        assert not numbers.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_lengths_of_a_known_shift(backend: str) -> None:
    _, target, valid, _ = example()
    shift = torch.tensor([3.0, -4.0], dtype=torch.float64).view(1, 2, 1, 1, 1)
    for kind, expected in (("l1", 7.0), ("epe", 5.0), ("charbonnier", 7 - 0.002)):
        found = flow_loss(target + shift, target, valid, kind=kind, backend=backend)  # type: ignore[arg-type]
        assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_gradients_are_those_of_the_value(backend: str, kind: str) -> None:
    predicted, target, valid, weight = example(1, 2, 2, 3, 4)
    predicted = torch.where(predicted == target, predicted + 0.5, predicted).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: flow_loss(p, target, valid, weight=weight, kind=kind, backend=backend),  # type: ignore[arg-type]
        predicted,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_laplace_mixture_is_a_density_and_learns_whom_to_trust(backend: str) -> None:
    asked: dict[str, Any] = {"kind": "laplace", "backend": backend}
    grid = torch.linspace(-60, 60, 24_001, dtype=torch.float64).view(1, 1, 1, 1, -1)
    confidence = torch.tensor([0.3, 1.2], dtype=torch.float64).view(1, 2, 1, 1, 1).expand(1, 2, 1, 1, grid.shape[-1])
    everything = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    each = [
        flow_loss(grid[..., i : i + 1], grid[..., :1] * 0, everything, confidence=confidence[..., :1], **asked)
        for i in range(0, grid.shape[-1], 20)
    ]
    assert torch.stack(each).neg().exp().sum().item() * 0.1 == pytest.approx(1.0, rel=2e-3)
    predicted, target, valid, weight = example(1, 2, 2, 3, 4)
    predicted = torch.where(predicted == target, predicted + 0.5, predicted).requires_grad_()
    some = confidence_of(predicted.detach()).clamp(-1, 1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, c: flow_loss(p, target, valid, weight=weight, confidence=c, **asked), (predicted, some)
    )
    far = (target + 30).requires_grad_()
    flow_loss(far, target, valid, confidence=some, **asked).backward()
    assert some.grad is not None and (some.grad[:, 1][valid] < 0).all()  # a far miss asks for a wider scale


@built
def test_a_sure_confidence_that_is_far_off_gets_a_finite_gradient() -> None:
    """Its scale is e^-80, and a second error of that scale is beyond float32."""
    predicted = torch.tensor([1e6, 1.0, 0.0, -1e6]).view(1, 1, 1, 4)
    confidence = torch.tensor([0.0, -80.0]).view(1, 2, 1, 1).repeat(1, 1, 1, 4).requires_grad_()
    leaves = (predicted.requires_grad_(), confidence)
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    asked: dict[str, Any] = {"kind": "laplace", "confidence": confidence, "backend": "native"}
    value = flow_loss(leaves[0], torch.zeros(1, 1, 1, 4), valid, **asked)
    slopes = torch.autograd.grad(value, leaves)
    assert value.isfinite() and all(slope.isfinite().all() for slope in slopes)
    assert slopes[0].flatten().tolist() == pytest.approx([0.25, 0.25, 0, -0.25])


@built
@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_strides_do_not_change_a_bit_and_every_element_is_written(kind: str) -> None:
    predicted, target, valid, weight = example(2, 3, 5, 33, 41, dtype=torch.float32)
    threads, found = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(gradients(predicted[:, :2], target[:, :2], valid, weight=weight, kind=kind, backend="native"))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    copied = [t[:, :2].contiguous() for t in (predicted, target)]
    found.append(gradients(*copied, valid, weight=weight, kind=kind, backend="native"))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_is_a_well_formed_operator_and_compiles(kind: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "reference":
        monkeypatch.setattr(native, "status", lambda: (False, "not built"))
    predicted, target, valid, weight = example(dtype=torch.float32)
    some = confidence_of(predicted).flatten(2).requires_grad_() if kind == "laplace" else None
    pair = (predicted.flatten(2).requires_grad_(), target.flatten(2))
    arguments = (*pair, valid.flatten(1), weight.flatten(1), some, kind)
    assert set(torch.library.opcheck(flow_loss_op, arguments).values()) == {"SUCCESS"}
    predicted.requires_grad_()

    def loss(predicted: Tensor) -> Tensor:
        asked: Any = {"kind": kind, "confidence": predicted * 0.5 if kind == "laplace" else None}
        return flow_loss(2 * predicted, target, valid, weight=weight, **asked)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(predicted), loss(predicted))
    expected, found = (torch.autograd.grad(f(predicted), predicted)[0] for f in (loss, compiled))
    assert torch.equal(found, expected)


def test_wrong_options_are_named() -> None:
    predicted, target, valid, _ = example()
    with pytest.raises(ValueError, match="kind: expected one of l1, charbonnier, epe, laplace, got 'l2'"):
        flow_loss(predicted, target, valid, kind="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='confidence: expected for kind "laplace" and no other, kind is "laplace"'):
        flow_loss(predicted, target, valid, kind="laplace")
    with pytest.raises(ValueError, match=r"confidence: expected shape \[2, 2, 3, 5, 7\]"):
        flow_loss(predicted, target, valid, kind="laplace", confidence=predicted[:, :1])
    with pytest.raises(RuntimeError, match="the triton backend cannot serve cpu: Triton kernels run on CUDA"):
        flow_loss(predicted, target, valid, backend="triton")
