"""Forward warp with a depth buffer: who is seen, against brute force; gradients, ties, masks, threads."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry import splat
from phys4d.kernels.geometry.warps.splat_ops import splat_op

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])
built = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])
Arguments = tuple[Tensor, Tensor, Tensor, Tensor]


def example(clips=2, channels=3, times=2, height=6, width=7, *, seed=0, dtype=torch.float64) -> Arguments:
    """values, flow, depth with holes and many ties, valid; what may not matter is not a number."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(clips, channels, times, height, width, generator=generator, dtype=torch.float64)
    flow = torch.randn(clips, 2, times, height, width, generator=generator, dtype=torch.float64) * 2
    depth = torch.randint(-1, 5, (clips, times, height, width), generator=generator) / 2
    valid = torch.rand(depth.shape, generator=generator) < 0.8
    flow = flow.masked_fill(torch.rand(flow.shape, generator=generator) < 0.02, torch.nan)
    flow = flow.masked_fill(torch.rand(flow.shape, generator=generator) < 0.02, torch.inf)
    depth = depth.to(torch.float64).masked_fill(~valid & (depth > 1), torch.nan)
    return values.to(dtype), flow.to(dtype), depth.to(dtype), valid


def by_hand(flow: Tensor, depth: Tensor, valid: Tensor | None) -> Tensor:
    """The index of who is seen, pixel after pixel."""
    index = torch.full(depth.shape, -1)
    height, width = depth.shape[-2:]
    for b, t, row, column in itertools.product(*map(range, depth.shape)):
        z, shown = depth[b, t, row, column].item(), valid is None or bool(valid[b, t, row, column])
        u, v = ((flow[b, k, t, row, column] + start + 0.5).item() for k, start in enumerate((column, row)))
        if shown and z > 0 and 0 <= u < width and 0 <= v < height:
            before = index[b, t, int(v), int(u)].item()
            if before < 0 or z < depth[b, t].flatten()[before]:
                index[b, t, int(v), int(u)] = row * width + column
    return index


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_is_seen_and_of_equals_the_first(dtype: torch.dtype, backend: str) -> None:
    values, flow, depth, valid = example(dtype=dtype)
    for mask in (valid, None):
        found = splat(values, flow, depth, mask, backend=backend)
        index = by_hand(flow, depth, mask)
        assert torch.equal(found.index, index)
        seen = index >= 0
        source = index.clamp_min(0).flatten(-2)
        assert torch.equal(found.depth[seen], depth.flatten(-2).gather(-1, source).view_as(depth)[seen])
        taken = values.flatten(-2).gather(-1, source[:, None].expand(-1, 3, -1, -1)).view_as(values)
        assert torch.equal(found.values, torch.where(seen[:, None], taken, 0))
        assert not found.depth[~seen].any() and 0.2 < seen.double().mean() < 0.9


@built
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 3), st.integers(0, 9), st.integers(0, 40)),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    masked=st.booleans(),
)
def test_native_equals_the_definition_in_every_bit(sizes, seed: int, dtype: torch.dtype, masked: bool) -> None:
    values, flow, depth, valid = example(*sizes, seed=seed, dtype=dtype)
    found = []
    for backend in ("native", "reference"):
        leaves = values.clone().requires_grad_(), depth.clone().requires_grad_()
        seen = splat(leaves[0], flow, leaves[1], valid if masked else None, backend=backend)
        gradients = torch.autograd.grad(seen.values.square().sum() + seen.depth.square().sum(), leaves)
        found.append([t.detach() for t in (*seen, *gradients)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_those_of_the_value(backend: str) -> None:
    values, flow, _, valid = example(1, 2, 1, 4, 5)
    flow, depth = flow.nan_to_num(), 1 + torch.randperm(20).double().view(1, 1, 4, 5) / 10
    arguments = values.requires_grad_(), depth.requires_grad_()

    def value(values: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        return splat(values, flow, depth, valid, backend=backend)[:2]

    assert torch.autograd.gradcheck(value, arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_source_is_seen_once_at_most_and_flow_gets_no_gradient(backend: str) -> None:
    values, flow, depth, valid = example(1, 1, 3, 9, 8)
    seen = splat(torch.ones_like(values).requires_grad_(), flow.requires_grad_(), depth, valid, backend=backend)
    for index in seen.index.flatten(0, 1).flatten(1):
        kept = index[index >= 0]
        assert len(kept.unique()) == len(kept)
    assert torch.autograd.grad(seen.values.sum(), flow, allow_unused=True)[0] is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_rigid_shifts_lose_only_what_leaves(backend: str) -> None:
    depth = torch.rand(1, 1, 5, 9, dtype=torch.float64) + 1
    flow = torch.zeros(1, 2, 1, 5, 9, dtype=torch.float64)
    flow[:, 0] = 2.49
    seen = splat(depth[:, None], flow, depth, backend=backend)
    assert torch.equal(seen.depth[..., 2:], depth[..., :-2]) and not seen.depth[..., :2].any()
    assert torch.equal(seen.values[:, 0], seen.depth) and seen.index[0, 0, 0].tolist() == [-1, -1, *range(7)]
    nothing = splat(depth[:, None] * torch.nan, flow, depth, depth < 0, backend=backend)
    assert not nothing.values.any() and not nothing.depth.any() and (nothing.index == -1).all()


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_runs_and_strides_do_not_change_a_bit(dtype: torch.dtype) -> None:
    arguments = example(2, 2, 5, 33, 41, dtype=dtype)
    threads, found = torch.get_num_threads(), []

    def run(values: Tensor, flow: Tensor, depth: Tensor, valid: Tensor) -> None:
        values, depth = values.detach().requires_grad_(), depth.detach().requires_grad_()
        seen = splat(values, flow, depth, valid, backend="native")
        found.append([*seen, *torch.autograd.grad(seen.values.sum() + seen.depth.square().sum(), (values, depth))])

    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            run(*arguments)
    finally:
        torch.set_num_threads(threads)
    run(*(t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in arguments))
    run(*(torch.stack((t, t), 1)[:, 1] for t in arguments))
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    try:
        run(*arguments)
    finally:
        torch.use_deterministic_algorithms(False)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_is_a_well_formed_operator(masked: bool) -> None:
    values, flow, depth, valid = example(1, 2, 2, 4, 5, dtype=torch.float32)
    values, flow, depth = values.requires_grad_(), flow.nan_to_num(), depth.nan_to_num().requires_grad_()
    arguments = values, flow, depth, valid if masked else None
    assert set(torch.library.opcheck(splat_op, arguments).values()) == {"SUCCESS"}


def test_without_native_code_the_operator_is_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    values, flow, depth, valid = example()
    found = []
    for available in (True, False):
        if not available:
            monkeypatch.setattr(native, "status", lambda: (False, "no compiler was found"))
        leaves = values.clone().requires_grad_(), depth.clone().requires_grad_()
        seen = splat_op(leaves[0], flow, leaves[1], valid)
        gradients = torch.autograd.grad(seen[0].square().sum() + seen[1].square().sum(), leaves)
        found.append([t.detach() for t in (*seen, *gradients)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_compiles_into_one_graph_and_autocast_is_float32() -> None:
    values, flow, depth, valid = example()
    compiled = torch.compile(lambda *x: splat(*x), fullgraph=True, backend="aot_eager")
    arguments = values, flow, depth, valid
    assert all(torch.equal(a, b) for a, b in zip(compiled(*arguments), splat(*arguments), strict=True))
    half = [t.bfloat16() for t in (values, flow, depth)]
    with torch.autocast("cpu", torch.bfloat16):
        assert splat_op(*half, valid)[0].dtype == torch.float32


def test_wrong_arguments_are_named() -> None:
    values, flow, depth, valid = example()
    with pytest.raises(ValueError, match=r"values: expected shape \[2, C, 2, 6, 7\]"):
        splat(values[..., :-1], flow, depth)
    with pytest.raises(ValueError, match=r"flow: expected shape \[2, 2, 2, 6, 7\]"):
        splat(values, flow[:, :1], depth)
    with pytest.raises(ValueError, match="valid: expected a bool mask"):
        splat(values, flow, depth, valid.double())
    with pytest.raises(RuntimeError, match="splat: the triton backend cannot serve cpu: Triton kernels run"):
        splat(values, flow, depth, backend="triton")
