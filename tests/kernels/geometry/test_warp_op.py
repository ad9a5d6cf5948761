"""The warp-consistency operator against its definition in float64: values, gradients, masks, threads, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import choose_backend
from phys4d.kernels.geometry import warp_consistency
from phys4d.kernels.geometry.losses.warp_ops import warp_op
from phys4d.kernels.geometry.losses.warp_reference import LOSSES, warp_reference

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])
built = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])
Arguments = tuple[Tensor, Tensor, Tensor, Tensor]


def example(clips=2, frames=3, height=6, width=7, *, seed=0, scale=1.0, dtype=torch.float64) -> Arguments:
    """Depth with holes, motion that partly leaves the image, a mask, weights. Depth and dz are in units of `scale`."""
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(clips, frames, height, width, generator=generator, dtype=torch.float64) + 0.5
    depth[torch.rand(depth.shape, generator=generator) < 0.05] = 0
    motion = torch.randn(clips, 3, frames - 1, height, width, generator=generator, dtype=torch.float64) * 1.5
    visible = torch.rand(clips, frames - 1, height, width, generator=generator) > 0.2
    weight = torch.rand(clips, frames - 1, height, width, generator=generator, dtype=torch.float64)
    motion[:, 2] *= scale
    return (depth * scale).to(dtype), motion.to(dtype), visible, weight.to(dtype)


def gradients(depth: Tensor, motion: Tensor, visible: Tensor | None, **asked) -> tuple[Tensor, Tensor, Tensor]:
    depth, motion = depth.detach().requires_grad_(), motion.detach().requires_grad_()
    value = warp_consistency(depth, motion, visible, **asked)
    return value.detach(), *torch.autograd.grad(value, (depth, motion))


@built
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 40)),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    loss=st.sampled_from(LOSSES),
    border=st.sampled_from(["mask", "clamp"]),
    masked=st.booleans(),
    weighted=st.booleans(),
    back=st.booleans(),
)
def test_float32_is_as_exact_as_torch_would_be(sizes, seed, scale, loss, border, masked, weighted, back) -> None:
    if loss == "squared" and scale != 1:
        scale = scale**0.5
    depth, motion, visible, weight = example(*sizes, seed=seed, scale=scale, dtype=torch.float32)
    truth = depth.flip(1) if back else None
    asked = {"loss": loss, "border": border, "weight": weight if weighted else None, "truth": truth}
    where = visible if masked else None
    exact = gradients(
        depth.double(), motion.double(), where, **(asked | {"weight": weight.double() if weighted else None}),
        backend="reference",
    )  # fmt: skip
    theirs = gradients(depth, motion, where, **asked, backend="reference")
    ours = gradients(depth, motion, where, **asked, backend="native")
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        if not true.numel():
            continue
        size = float(true.abs().max())
        error, fault = ((t.double() - true).abs().max() for t in (mine, other))
        assert error <= 2 * fault + 4e-6 * size  # a pixel whose landing rounds into another cell costs both alike


@built
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), loss=st.sampled_from(LOSSES), border=st.sampled_from(["mask", "clamp"]))
def test_float64_equals_the_definition(seed: int, loss: str, border: str) -> None:
    depth, motion, visible, weight = example(seed=seed)
    asked = {"loss": loss, "border": border, "weight": weight}
    for where in (visible, None):
        for mine, true in zip(
            gradients(depth, motion, where, **asked, backend="native"),
            gradients(depth, motion, where, **asked, backend="reference"),
            strict=True,
        ):
            torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("back", [False, True])
def test_gradients_are_those_of_the_value(backend: str, back: bool) -> None:
    torch.manual_seed(1)
    depth = (torch.rand(1, 3, 4, 5, dtype=torch.float64) + 1).requires_grad_()
    motion = torch.rand(1, 3, 2, 4, 5, dtype=torch.float64).mul(0.8).add(0.1).requires_grad_()
    truth, weight = torch.rand_like(depth) + 1 if back else None, torch.rand(1, 2, 4, 5, dtype=torch.float64)

    def value(depth: Tensor, motion: Tensor) -> Tensor:
        return warp_consistency(
            depth, motion, None, weight=weight, z_test=0.9, truth=truth, loss="charbonnier", border="clamp",
            backend=backend,
        )  # fmt: skip

    assert torch.autograd.gradcheck(value, (depth, motion))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_masked_reaches_nothing(backend: str) -> None:
    depth, motion, visible, weight = example()
    clean = gradients(depth, motion, visible, weight=weight, backend=backend)
    spoiled = motion.masked_fill(~visible[:, None], torch.nan)
    for mine, true in zip(
        gradients(depth, spoiled, visible, weight=weight.masked_fill(~visible, torch.nan), backend=backend),
        clean,
        strict=True,
    ):
        assert torch.equal(mine, true)
    nothing = torch.zeros_like(visible)
    for found in gradients(depth * torch.nan, motion * torch.nan, nothing, weight=weight, backend=backend):
        assert not found.any()
    lost, share = warp_consistency(depth, motion, nothing, report=True, backend=backend)
    assert lost == 0 and share.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_z_test_hides_what_something_nearer_covers_and_nothing_else(backend: str) -> None:
    depth = torch.full((1, 2, 1, 8), 4.0, dtype=torch.float64)
    depth[0, 1, 0, 2:4] = 2.0  # something nearer covers two pixels ...
    depth[0, 1, 0, 6] = 7.0  # ... and one opens onto something farther
    motion = torch.zeros(1, 3, 1, 1, 8, dtype=torch.float64)
    value, share = warp_consistency(depth, motion, None, report=True, backend=backend)
    assert share.item() == 2 / 8 and value.item() == pytest.approx(3 / 6)
    value, share = warp_consistency(depth, motion, None, z_test=0.5, report=True, backend=backend)
    assert share.item() == 0 and value.item() == pytest.approx((2 + 2 + 3) / 8)  # 2 is not nearer than half of 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_sum_to_less_than_one_give_a_mean_too(backend: str) -> None:
    depth = torch.tensor([[[[4.0, 4.0]], [[5.0, 7.0]]]], dtype=torch.float64)  # residuals of 1 and 3 m
    motion, weight = torch.zeros(1, 3, 1, 1, 2).double(), torch.tensor([[[[0.1, 0.3]]]]).double()
    value = warp_consistency(depth, motion, torch.ones(1, 1, 1, 2, dtype=torch.bool), weight=weight, backend=backend)
    assert value.item() == pytest.approx((0.1 * 1 + 0.3 * 3) / 0.4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_moving_everything_out_pays_only_without_clamping(backend: str) -> None:
    depth, motion, visible, _ = example()
    depth, motion[:, 0], everything = depth.clamp_min(0.5), 100.0, torch.ones_like(visible)
    value, share = warp_consistency(depth, motion, everything, report=True, backend=backend)
    assert value == 0 and (share == 1).all()
    value, share = warp_consistency(depth, motion, everything, border="clamp", report=True, backend=backend)
    assert value > 0.1 and (share == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backward_form_reads_frame_t_where_the_point_came_from(backend: str) -> None:
    """A slope in inverse depth moves right by 1.5 px: frame t read at x - flow is frame t + 1; a wrong sign is seen."""
    ramp = 1 / torch.linspace(0.2, 0.6, 12, dtype=torch.float64).expand(1, 1, 5, 12)
    step = (0.6 - 0.2) / 11
    truth = torch.cat((ramp, 1 / (1 / ramp - 1.5 * step)), 1)  # inverse depth moves right by 1.5 px
    motion = torch.zeros(1, 3, 1, 5, 12, dtype=torch.float64)
    motion[:, 0] = 1.5
    seen = torch.ones(1, 1, 5, 12, dtype=torch.bool)
    assert warp_consistency(truth, motion, seen, truth=truth, loss="squared", backend=backend) < 1e-24
    assert warp_consistency(truth, -motion, seen, truth=truth, backend=backend) > 0.1
    shifted = motion.clone()
    shifted[:, 0] += 0.5
    assert warp_consistency(truth, shifted, seen, truth=truth, backend=backend) > 0.01
    depth = truth.clone().requires_grad_()
    warp_consistency(depth * 1.1, motion, seen, truth=truth, backend=backend).backward()
    assert depth.grad is not None and depth.grad[:, 0].abs().sum() > 0 and not depth.grad[:, 1].any()


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_runs_and_strides_do_not_change_a_bit(dtype: torch.dtype) -> None:
    depth, motion, visible, weight = example(2, 5, 33, 41, dtype=dtype)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 1):
            torch.set_num_threads(number)
            found.append(gradients(depth, motion, visible, weight=weight, backend="native"))
    finally:
        torch.set_num_threads(threads)
    by_column = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (depth, motion, visible)]
    found.append(gradients(*by_column, weight=weight, backend="native"))
    outside = [torch.stack((t, t), 1)[:, 1] for t in (depth, motion, visible)]  # planes as they are, strides around
    found.append(gradients(*outside, weight=weight, backend="native"))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@built
@pytest.mark.parametrize("back", [False, True])
def test_every_element_is_written(back: bool) -> None:
    depth, motion, visible, weight = example(2, 4, 5, 6)
    truth = depth.clone() if back else None
    before = gradients(depth, motion, visible, weight=weight, truth=truth, backend="native")
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    try:
        assert torch.empty(9).isnan().all()
        after = gradients(depth, motion, visible, weight=weight, truth=truth, backend="native")
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("optional", [False, True])
def test_is_a_well_formed_operator(dtype: torch.dtype, optional: bool) -> None:
    depth, motion, visible, weight = example(dtype=dtype)
    some = (visible, weight, depth.clone()) if optional else (None, None, None)
    arguments = (depth.requires_grad_(), motion.requires_grad_(), *some, "relative", 0.05, True)
    assert set(torch.library.opcheck(warp_op, arguments).values()) == {"SUCCESS"}


def test_compiles_into_one_graph_with_gradients() -> None:
    depth, motion, visible, weight = example()
    depth, motion = depth.requires_grad_(), motion.requires_grad_()

    def loss(depth: Tensor, motion: Tensor) -> Tensor:
        return warp_consistency(2 * depth, motion, visible, weight=weight)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(depth, motion), loss(depth, motion))
    expected = torch.autograd.grad(loss(depth, motion), (depth, motion))
    found = torch.autograd.grad(compiled(depth, motion), (depth, motion))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_autocast_computes_the_operator_in_float32() -> None:
    depth, motion, visible, weight = example(dtype=torch.bfloat16)
    rest = ("l1", -1.0, False)
    with torch.autocast("cpu", torch.bfloat16):
        found = warp_op(depth, motion, visible, weight, None, *rest)
    expected = warp_reference(depth.float(), motion.float(), visible, weight.float(), None, *rest)
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found[0], expected[0])


@built
def test_a_weight_that_learns_is_served_by_the_definition() -> None:
    depth, motion, visible, weight = example()
    weight.requires_grad_()
    warp_consistency(depth, motion, visible, weight=weight).backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match='weight wants a gradient, which only backend="reference" gives'):
        warp_consistency(depth, motion, visible, weight=weight, backend="native")


def test_a_named_backend_that_cannot_serve_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    depth, motion, visible, _ = example()
    with pytest.raises(RuntimeError, match="warp_consistency: the triton backend cannot serve cpu: Triton kernels run"):
        warp_consistency(depth, motion, visible, backend="triton")
    monkeypatch.setattr(native, "status", lambda: (False, "no compiler was found"))
    assert choose_backend("auto", "warp_consistency", depth) == "reference"
    with pytest.raises(RuntimeError, match="the native backend cannot serve cpu: no compiler was found"):
        warp_consistency(depth, motion, visible, backend="native")
    arguments = (depth.requires_grad_(), motion.requires_grad_(), visible, None, None, "l1", -1.0, False)
    assert set(torch.library.opcheck(warp_op, arguments).values()) == {"SUCCESS"}  # then it is the definition
    torch.testing.assert_close(warp_op(*arguments)[0].sum() / 2, warp_consistency(depth, motion, visible))
    found = torch.autograd.grad(warp_op(*arguments)[0].sum() / 2, (depth, motion))
    torch.testing.assert_close(found, torch.autograd.grad(warp_consistency(depth, motion, visible), (depth, motion)))


def test_wrong_options_are_named() -> None:
    depth, motion, visible, _ = example()
    with pytest.raises(ValueError, match='border: expected "mask" or "clamp", got "wrap"'):
        warp_consistency(depth, motion, visible, border="wrap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="z_test: expected a share from 0 to below 1, got 1.5"):
        warp_consistency(depth, motion, visible, z_test=1.5)
    with pytest.raises(ValueError, match=r"truth: expected shape \[2, 3, 6, 7\]"):
        warp_consistency(depth, motion, visible, truth=depth[:, 1:])
    with pytest.raises(ValueError, match='backend: expected "auto"'):
        warp_consistency(depth, motion, visible, backend="gpu")  # type: ignore[arg-type]
