"""Backward warp against F.grid_sample and its definition in float64: values, gradients, borders, labels, threads."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry import flow_warp
from phys4d.kernels.geometry.warps.flow_warp_ops import flow_warp_op
from phys4d.kernels.geometry.warps.flow_warp_reference import flow_warp_reference

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])
BORDERS = {"zero": "zeros", "clamp": "border"}
built = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])
SIZES = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 3), st.integers(1, 9), st.integers(1, 40))


def example(clips=2, channels=3, times=3, height=6, width=7, *, seed=0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Frames, and a flow that partly leaves the image and lands on pixel centres and borders too."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(clips, channels, times, height, width, generator=generator, dtype=torch.float64)
    flow = torch.randn(clips, 2, times, height, width, generator=generator, dtype=torch.float64) * 3
    whole = torch.rand(flow.shape, generator=generator) < 0.3
    return frames.to(dtype), torch.where(whole, flow.round(), flow).to(dtype)


def with_gradients(warp, frames: Tensor, flow: Tensor) -> list[Tensor]:
    """warped, d_frames, d_flow for gradients handed back that are not alike."""
    frames, flow = frames.detach().requires_grad_(), flow.detach().requires_grad_()
    warped = warp(frames, flow)
    weights = torch.linspace(-1, 2, warped.numel(), dtype=torch.float64).to(warped).view(warped.shape)
    return [warped.detach(), *torch.autograd.grad((warped * weights).sum(), (frames, flow))]


def grid_sample(frames: Tensor, flow: Tensor, padding: str) -> Tensor:
    height, width = frames.shape[-2:]
    u = torch.arange(width, dtype=flow.dtype) + flow[:, 0]
    v = torch.arange(height, dtype=flow.dtype)[:, None] + flow[:, 1]
    grid = torch.stack((u * (2 / (width - 1)) - 1, v * (2 / (height - 1)) - 1), -1).flatten(0, 1)
    taken = F.grid_sample(frames.transpose(1, 2).flatten(0, 1), grid, padding_mode=padding, align_corners=True)
    return taken.unflatten(0, (len(frames), -1)).transpose(1, 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("border", BORDERS)
def test_is_what_grid_sample_computes(border, backend: str) -> None:
    frames, flow = example(height=9, width=8)
    flow = flow + 0.003  # at a pixel centre itself the two may choose different sides
    ours = with_gradients(lambda *x: flow_warp(*x, border=border, backend=backend)[0], frames, flow)
    theirs = with_gradients(lambda *x: grid_sample(*x, BORDERS[border]), frames, flow)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


@built
@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 999), clamp=st.booleans(), labelled=st.booleans())
def test_native_equals_the_definition(sizes, seed: int, clamp: bool, labelled: bool) -> None:
    frames, flow = example(*sizes, seed=seed)
    marks, tolerance = (None, None), 0.0
    if labelled:
        frames = frames.masked_fill(frames > 2.5, torch.nan)
        marks = 1 + flow[:, 0].sin(), 1 + flow[:, 1].sin()
        marks[0][frames.isnan().any(1)] = 0
        tolerance = 0.3

    def found(warp):
        inside = warp(frames, flow, *marks, tolerance, clamp)[1]
        return [inside, *with_gradients(lambda *x: warp(*x, *marks, tolerance, clamp)[0], frames, flow)]

    for mine, true in zip(found(flow_warp_op), found(flow_warp_reference), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-11, atol=1e-11)


@built
@pytest.mark.parametrize("border", BORDERS)
def test_float32_is_as_exact_as_torch_would_be(border) -> None:
    frames, flow = example(2, 5, 3, 33, 41, dtype=torch.float32)
    flow = flow + 0.003

    def found(dtype: torch.dtype, backend: str) -> list[Tensor]:
        return with_gradients(
            lambda *x: flow_warp(*x, border=border, backend=backend)[0], frames.to(dtype), flow.to(dtype)
        )

    exact = found(torch.float64, "reference")
    for mine, other, true in zip(found(torch.float32, "native"), found(torch.float32, "reference"), exact, strict=True):
        error, fault = ((t.double() - true).abs().max() for t in (mine, other))
        assert error <= 2 * fault + 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("border", BORDERS)
def test_gradients_are_those_of_the_value(border, backend: str) -> None:
    torch.manual_seed(1)
    frames = torch.randn(1, 2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = torch.randint(-4, 4, (1, 2, 2, 4, 5)) + 0.1 + 0.8 * torch.rand(1, 2, 2, 4, 5, dtype=torch.float64)
    flow.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: flow_warp(*x, border=border, backend=backend)[0], (frames, flow))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_labelled_weights_are_those_of_the_value(backend: str) -> None:
    torch.manual_seed(2)
    frames = torch.randn(1, 2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = torch.randint(-2, 2, (1, 2, 1, 4, 5)) + 0.1 + 0.8 * torch.rand(1, 2, 1, 4, 5, dtype=torch.float64)
    flow.requires_grad_()
    marks = [torch.randint(1, 3, (1, 1, 4, 5)).double() for _ in range(2)]
    warp = flow_warp_reference if backend == "reference" else flow_warp_op
    assert torch.autograd.gradcheck(lambda *x: warp(*x, *marks, 0.0, False)[0], (frames, flow))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_pixels_of_the_wanted_label_are_read(backend: str) -> None:
    frames, flow = example(1, 2, 2, 12, 13)
    labels = (torch.rand(1, 2, 12, 13) < 0.5).double() + 1
    wanted = torch.ones_like(labels)
    warp = flow_warp_reference if backend == "reference" else flow_warp_op
    spoiled = frames.masked_fill((labels == 2)[:, None], torch.nan)
    ours = with_gradients(lambda *x: warp(*x, labels, wanted, 0.0, False)[0], frames, flow)
    for mine, other in zip(
        with_gradients(lambda *x: warp(*x, labels, wanted, 0.0, False)[0], spoiled, flow), ours, strict=True
    ):
        assert torch.equal(mine, other)
    assert not ours[1].masked_select((labels == 2)[:, None]).any()
    constant, found = warp(torch.full_like(frames, 5.0), flow, labels, wanted, 0.0, False)
    torch.testing.assert_close(constant, torch.where(found[:, None], 5.0, 0.0).double().expand_as(constant))
    assert 0.2 < found.double().mean() < 0.95
    near, _ = warp(frames, flow, labels + 0.04, wanted, 0.05, False)
    assert torch.equal(near, ours[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("border", BORDERS)
def test_what_is_not_a_number_or_far_away_reads_nothing(border, backend: str) -> None:
    frames, flow = example(1, 2, 1, 5, 6)
    clean = with_gradients(lambda *x: flow_warp(*x, border=border, backend=backend)[0], frames, flow)
    far = {"nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf, "huge": 1e30}
    for place, value in enumerate(far.values()):
        flow[0, place % 2, 0, 2, place] = value
    frames, flow = frames.requires_grad_(), flow.requires_grad_()
    warped, inside = flow_warp(frames, flow, border=border, backend=backend)
    assert not inside[0, 0, 2, :4].any() and warped.isfinite().all()
    assert warped[0, :, 0, 2, 0].eq(0).all() and (border == "clamp" or not warped[0, :, 0, 2, :4].any())
    spoil = torch.ones_like(warped)
    spoil[..., 2, 0] = torch.nan  # a gradient that nothing was read for
    d_frames, d_flow = torch.autograd.grad(warped, (frames, flow), spoil)
    assert d_frames.isfinite().all() and d_flow.isfinite().all() and not d_flow[0, :, 0, 2, 0].any()
    assert torch.equal(warped[..., 3:, :], clean[0][..., 3:, :])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_flow_returns_the_frames_and_all_is_inside(backend: str) -> None:
    for height, width in ((1, 1), (1, 6), (5, 1), (4, 7)):
        frames, flow = example(1, 2, 2, height, width)
        warped, inside = flow_warp(frames, torch.zeros_like(flow), backend=backend)
        assert torch.equal(warped, frames) and inside.all()
        warped, inside = flow_warp(frames, torch.full_like(flow, 0.25), border="clamp", backend=backend)
        assert warped.isfinite().all() and not inside[..., -1].any() and not inside[..., -1, :].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [(0, 2, 2, 3, 4), (2, 0, 1, 3, 4), (1, 2, 2, 0, 3), (1, 2, 2, 3, 0)])
def test_nothing_to_warp_is_no_fault(sizes: tuple[int, ...], backend: str) -> None:
    frames, flow = example(*sizes)
    warped, d_frames, d_flow = with_gradients(lambda *x: flow_warp(*x, backend=backend)[0], frames, flow)
    assert warped.shape == d_frames.shape == frames.shape and d_flow.shape == flow.shape and not d_flow.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_that_want_no_gradient_cost_none(backend: str) -> None:
    frames, flow = example()
    expected = with_gradients(lambda *x: flow_warp(*x, backend=backend)[0], frames, flow)[2]
    flow.requires_grad_()
    warped, _ = flow_warp(frames, flow, backend=backend)
    weights = torch.linspace(-1, 2, warped.numel(), dtype=torch.float64).view(warped.shape)
    assert torch.equal(torch.autograd.grad((warped * weights).sum(), flow)[0], expected)


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_runs_and_strides_do_not_change_a_bit(dtype: torch.dtype) -> None:
    frames, flow = example(2, 3, 5, 33, 41, dtype=dtype)
    threads, found = torch.get_num_threads(), []

    def run(frames: Tensor, flow: Tensor) -> None:
        found.append(with_gradients(lambda *x: flow_warp(*x, backend="native")[0], frames, flow))

    try:
        for number in (1, 2, 3, 1):
            torch.set_num_threads(number)
            run(frames, flow)
    finally:
        torch.set_num_threads(threads)
    run(*(t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (frames, flow)))
    run(*(torch.stack((t, t), 2)[:, :, 1] for t in (frames, flow)))  # planes as they are, strides around
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    try:
        run(frames, flow)
    finally:
        torch.use_deterministic_algorithms(False)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("labelled", [False, True])
def test_is_a_well_formed_operator(labelled: bool) -> None:
    frames, flow = example(1, 2, 2, 4, 5, dtype=torch.float32)
    marks = (flow[:, 0].round(), flow[:, 1].round()) if labelled else (None, None)
    arguments = (frames.requires_grad_(), flow.clone().requires_grad_(), *marks, 0.1, True)
    assert set(torch.library.opcheck(flow_warp_op, arguments).values()) == {"SUCCESS"}


def test_compiles_into_one_graph_with_gradients() -> None:
    frames, flow = example()
    compiled = torch.compile(lambda *x: flow_warp(*x)[0] * 2, fullgraph=True, backend="aot_eager")
    plain = with_gradients(lambda *x: flow_warp(*x)[0] * 2, frames, flow)
    assert all(torch.equal(a, b) for a, b in zip(with_gradients(compiled, frames, flow), plain, strict=True))


def test_autocast_computes_the_operator_in_float32() -> None:
    frames, flow = example(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        warped, _ = flow_warp_op(frames, flow, None, None, 0.0, False)
    torch.testing.assert_close(warped, flow_warp_reference(frames.float(), flow.float(), None, None, 0.0, False)[0])


def test_without_native_code_the_operator_is_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, flow = example()
    expected = with_gradients(lambda *x: flow_warp(*x, backend="reference")[0], frames, flow)
    monkeypatch.setattr(native, "status", lambda: (False, "no compiler was found"))
    found = with_gradients(lambda *x: flow_warp_op(*x, None, None, 0.0, False)[0], frames, flow)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(2, 2), (1, 2), (2, 1), (3, 2)])
def test_the_definition_interpolates_the_smallest_images_along_both_axes(shape: tuple[int, int]) -> None:
    """1 + row + 2 column, read a quarter of a pixel down and half a pixel to the right."""
    height, width = shape
    rows, columns = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    frames = (1 + rows + 2 * columns).expand(2, 3, 2, height, width)
    down, right = (0.25 if height > 1 else 0.0), (0.5 if width > 1 else 0.0)
    flow = torch.tensor([right, down], dtype=torch.float64).view(1, 2, 1, 1, 1).expand(2, 2, 2, height, width)
    warped, inside = flow_warp_reference(frames, flow, None, None, 0.0, False)
    first = warped[..., 0, 0]
    torch.testing.assert_close(first, torch.full_like(first, 1 + down + 2 * right))
    assert inside[..., 0, 0].all()


def test_wrong_arguments_are_named() -> None:
    frames, flow = example()
    with pytest.raises(ValueError, match=r"flow: expected shape \[2, 2, 3, 6, 7\]"):
        flow_warp(frames, flow[:, :1])
    with pytest.raises(ValueError, match='border: expected "zero" or "clamp", got "wrap"'):
        flow_warp(frames, flow, border="wrap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames: expected float32 or float64, got float16"):
        flow_warp(frames.half(), flow)
    with pytest.raises(RuntimeError, match="flow_warp: the triton backend cannot serve cpu: Triton kernels run"):
        flow_warp(frames, flow, backend="triton")
