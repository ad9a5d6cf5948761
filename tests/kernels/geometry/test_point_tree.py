"""Trees of boxes on the clouds' own device, and the native walk through them, which is the GPU's compiled for a CPU."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from phys4d.kernels import native
from phys4d.kernels.dispatch import backend as dispatch_backend
from phys4d.kernels.geometry import chamfer, nearest
from phys4d.kernels.geometry.clouds.chamfer_ops import chamfer_op
from phys4d.kernels.geometry.clouds.chamfer_reference import search_reference
from phys4d.kernels.geometry.clouds.nearest_native import nearest_native
from phys4d.kernels.geometry.clouds.neighbours import both_ways, one_way, plan, worth_trees
from phys4d.kernels.geometry.clouds.point_tree import CHILDREN, LEAF, NO_POINT, first_leaf_of, grow, grow_both

built = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])
SOURCES = Path(native.__file__).parent / "src"
HAS_CUDA = native.compiled_for("phys4d::tree_search", "cuda")


def cloud(kind: str, points: int, dimensions: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """[points, dimensions]: clouds as they come from scenes, and as they come from trouble."""
    uniform = torch.rand(points, dimensions, generator=generator, dtype=torch.float64)
    normal = torch.randn(points, dimensions, generator=generator, dtype=torch.float64)
    flat = torch.ones(dimensions, dtype=torch.float64)
    flat[2] = 0
    made = {
        "uniform": uniform,
        "plane": uniform * flat,
        "one place": torch.ones_like(uniform),
        "few places": (uniform * 3).floor(),
        "lattice": (uniform * 12).floor(),
        "clusters": normal * 1e-4 + normal[torch.randint(0, min(9, points), (points,), generator=generator)],
        "a wild point": torch.cat((normal[:-1], torch.full((1, dimensions), 1e30, dtype=torch.float64))),
        "wild points": torch.where(uniform[:, :1] > 0.99, normal * 1e9, uniform * 1e-3),
        "vanishing": uniform * 1e-30,
        "overflowing": normal * 1e25,
        "broken": torch.where(uniform[:, :1] > 0.9, torch.nan, normal),
        "unbounded": torch.where(uniform > 0.95, torch.inf, normal),
        "all broken": normal * torch.nan,
    }
    return made[kind].to(dtype)


KINDS = [
    "uniform", "plane", "one place", "few places", "lattice", "clusters", "a wild point", "wild points", "vanishing",
    "overflowing", "broken", "unbounded", "all broken",
]  # fmt: skip


def whole(*clouds: Tensor) -> list[Tensor]:
    return [torch.full((len(c),), c.shape[1], dtype=torch.int64) for c in clouds]


def same_bits(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(1, 700), st.sampled_from([3, 4]), st.sampled_from([4, 8]), st.integers(0, 99)
)
@example("uniform", 1, 3, 8, 0)
def test_every_point_is_in_its_leaf_and_every_leaf_in_its_boxes(
    kind: str, points: int, dimensions: int, leaf: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.stack([cloud(kind, points, dimensions, generator, torch.float32) for _ in range(2)])
    lengths = torch.tensor([points, points // 2])
    tree = grow(x, lengths, leaf)
    leaves = tree.order.shape[1]
    assert leaves % CHILDREN == 0 and leaves * leaf < points + CHILDREN * leaf
    for b in range(2):
        order, rows = tree.order[b].flatten().long(), tree.points[b].transpose(1, 2).reshape(-1, dimensions)
        assert order.sort().values.equal(torch.arange(leaves * leaf))
        here = (order < lengths[b]) & x[b][order.clamp(max=points - 1)].isfinite().all(dim=1)
        assert torch.equal(rows[here], x[b][order[here]]) and rows[~here].isinf().all()
        assert here.int().diff().le(0).all()  # those in the tree come first
        low = torch.where(here[:, None], rows, torch.inf).view(leaves, leaf, -1).amin(1)
        high = torch.where(here[:, None], -rows, torch.inf).view(leaves, leaf, -1).amin(1)
        first = torch.where(here, order, NO_POINT).view(leaves, leaf).amin(1)
        sides = torch.cat((low, high), dim=1)
        for group in range(tree.boxes.shape[1] - 1, -1, -1):  # children before parents
            for child in range(CHILDREN):
                node = CHILDREN * group + 1 + child
                at = node - first_leaf_of(leaves)
                if at >= 0:
                    box, index = sides[at], first[at]
                elif node < tree.boxes.shape[1]:
                    box, index = tree.boxes[b, node].amin(dim=1), tree.first[b, node].amin()
                else:
                    box, index = torch.full((2 * dimensions,), torch.inf), torch.tensor(NO_POINT)
                assert torch.equal(tree.boxes[b, group, :, child], box) and tree.first[b, group, child] == index


def test_one_tree_or_two_at_once_are_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, points, 3, generator=generator) for points in (300, 90))
    lengths = torch.tensor([300, 120]), torch.tensor([0, 90])
    pair = grow_both(x, y, *lengths)
    for both, cloud_, count in zip(pair, (x, y), lengths, strict=True):
        alone = grow(cloud_, count)
        for b in range(2):
            kept = alone.order[b].flatten() < count[b]
            assert torch.equal(alone.order[b].flatten()[kept], both.order[b].flatten()[: len(kept)][kept])
        assert torch.equal(alone.points, both.points[:, : alone.points.shape[1]])


@built
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(1, 900), st.integers(1, 900), st.booleans(),
    st.sampled_from([3, 4]), st.integers(0, 99),
)  # fmt: skip
@example("one place", "one place", 900, 900, False, 3, 0)
@example("overflowing", "a wild point", 500, 700, False, 3, 1)
def test_has_the_bits_of_comparing_all_with_all(
    kind: str, other: str, n: int, m: int, double: bool, dimensions: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    x, y = cloud(kind, n, dimensions, generator, dtype)[None], cloud(other, m, dimensions, generator, dtype)[None]
    found = one_way("native", "tree", x, y, *whole(x, y))
    distances = (x[0, :, None, 0] - y[0, None, :, 0]).square()
    for axis in range(1, dimensions):
        distances += (x[0, :, None, axis] - y[0, None, :, axis]).square()
    index = torch.where(distances.isnan(), torch.inf, distances).min(dim=1).indices
    assert torch.equal(found[1][0], index)
    assert same_bits(found[0][0], distances.gather(1, index[:, None])[:, 0])
    if dimensions == 3:
        for by_trees in nearest_native(x[0], y[0], "tree"), nearest_native(x[0], y[0], "exhaustive"):
            assert torch.equal(by_trees[1], index) and same_bits(by_trees[0], found[0][0])


@built
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.sampled_from([3, 4]), st.booleans(), st.integers(0, 99))
@example(0, 5, 3, False, 0)
@example(5, 0, 3, False, 0)
def test_ragged_batches_agree_with_the_reference(n: int, m: int, dimensions: int, lattice: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clouds = [torch.randn(4, points, dimensions, generator=generator) for points in (n, m)]
    lengths = [torch.randint(0, points + 1, (4,), generator=generator) for points in (n, m)]
    lengths[0][0] = lengths[1][1] = 0
    for points, count in zip(clouds, lengths, strict=True):
        points.copy_(points.round() if lattice else points)
        points[torch.arange(points.shape[1]) >= count[:, None]] = torch.nan
    x_squares, nearest_in_y, y_squares, nearest_in_x = both_ways("native", "tree", *clouds, *lengths)
    _, expected_y, expected_x = search_reference(*clouds, *lengths, False)
    assert torch.equal(nearest_in_y, expected_y) and torch.equal(nearest_in_x, expected_x)
    for squares, count, other in ((x_squares, *lengths), (y_squares, *lengths[::-1])):
        counted = (torch.arange(squares.shape[1]) < count[:, None]) & (other > 0)[:, None]
        assert not squares[~counted].any() and squares[counted].isfinite().all()


@built
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("all broken", "vanishing")])
def test_no_kind_of_cloud_makes_a_query_look_at_much(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (cloud(kind, 20_000, 3, generator, torch.float32)[None] for _ in range(2))
    trees = grow_both(x, y, *whole(x, y))
    visits = torch.ops.phys4d.tree_visits(
        x, whole(x)[0], trees[0].order.flatten(1), y, whole(y)[0], *trees[1]
    )[0].double()  # fmt: skip
    groups, leaves = visits.mean(dim=0).tolist()
    assert groups < 75 and leaves < 16  # of 833 groups of boxes and 2,500 leaves; a kind takes 10 to 50 and 1 to 10
    assert visits[:, 1].max() < 2500 / 8


@built
@pytest.mark.parametrize("dimensions", [3, 4])
def test_is_a_well_formed_op(dimensions: int) -> None:
    x, y = (torch.randn(2, points, dimensions) for points in (40, 70))
    n, m = whole(x, y)
    trees = grow_both(x, y, n, m)
    arguments = (x, n, trees[0].order.flatten(1), y, m, *trees[1])
    assert set(torch.library.opcheck(torch.ops.phys4d.tree_search.default, arguments).values()) == {"SUCCESS"}
    with pytest.raises(RuntimeError, match="x_order is not as point_tree.grow makes it"):
        torch.ops.phys4d.tree_search(x, n, trees[0].order.flatten(1).long(), y, m, *trees[1])
    fewer = (t[:, :1].contiguous() for t in trees[1][2:])
    with pytest.raises(RuntimeError, match="12 leaves below 1 groups of boxes are no tree"):
        torch.ops.phys4d.tree_search(*arguments[:5], trees[1].points, trees[1].order, *fewer)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton"] + (["native"] if HAS_CUDA else []))
@pytest.mark.parametrize("kind", ["uniform", "lattice", "a wild point", "broken"])
def test_on_a_gpu_nobody_waits_for_it_and_the_neighbours_are_the_cpus(backend: str, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.stack([cloud(kind, n, 3, generator, torch.float32) for _ in range(2)]) for n in (9000, 7000))
    lengths = torch.tensor([9000, 8000]), torch.tensor([0, 7000])
    _, *expected = chamfer_op(x, y, *lengths, False, "reference")
    arguments = [t.cuda() for t in (x, y, *lengths)]
    chamfer_op(*arguments, False, backend, "tree")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, *found = chamfer_op(*arguments, False, backend, "tree")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
    on_cpu, on_cuda = nearest(x[0], y[1]), nearest(x[0].cuda(), y[1].cuda(), backend=backend, search="tree")  # type: ignore[arg-type]
    assert torch.equal(on_cuda[1].cpu(), on_cpu[1]) and same_bits(on_cuda[0].cpu(), on_cpu[0])


@built
def test_searches_asked_for_by_name_are_honoured_or_refused() -> None:
    x, y = torch.randn(2, 60, 3), torch.randn(2, 50, 3)
    values = [chamfer(x, y, search=search) for search in ("auto", "exhaustive", "tree")]  # type: ignore[arg-type]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])
    assert all(torch.equal(nearest(x[0], y[0], search="tree")[i], nearest(x[0], y[0])[i]) for i in range(2))
    for function, clouds in ((chamfer, (x, y)), (nearest, (x[0], y[0]))):
        assert function(*clouds, search="exhaustive", backend="reference") is not None
        with pytest.raises(RuntimeError, match="the reference backend cannot serve cpu: it compares all with all"):
            function(*clouds, search="tree", backend="reference")
        with pytest.raises(ValueError, match='search: expected "auto", "exhaustive" or "tree", got "hash"'):
            function(*clouds, search="hash")


def test_without_native_code_a_tree_is_refused_and_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "status", lambda: (False, "no compiler was found"))
    x = torch.zeros(1, 4, 3)
    assert chamfer(x, x, search="exhaustive").tolist() == [0.0]
    with pytest.raises(RuntimeError, match="chamfer: no backend can serve cpu: native: no compiler was found"):
        chamfer(x, x, search="tree")


def test_on_cuda_large_clouds_go_through_trees_natively_where_that_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        large, small = (torch.empty(1, points, 3, device="cuda") for points in (100_000, 2000))
    monkeypatch.setattr(dispatch_backend, "_native_fault", lambda device, on_cuda: "built for CPU; nothing for cuda")
    assert plan("chamfer", "auto", "auto", large, large) == ("triton", "tree")
    assert plan("chamfer", "auto", "auto", small, large) == ("triton", "exhaustive")
    assert plan("chamfer", "triton", "exhaustive", large, large) == ("triton", "exhaustive")
    with pytest.raises(RuntimeError, match="the native backend cannot serve cuda.*built for CPU; nothing for cuda"):
        plan("chamfer", "native", "auto", large, large)
    monkeypatch.setattr(dispatch_backend, "_native_fault", lambda device, on_cuda: None)
    assert plan("chamfer", "auto", "auto", large, large) == ("native", "tree")
    assert plan("chamfer", "auto", "auto", small, small) == ("triton", "exhaustive")
    assert plan("chamfer", "native", "auto", small, small) == ("native", "tree")
    with pytest.raises(RuntimeError, match="on CUDA it searches trees, not search=\"exhaustive\""):
        plan("chamfer", "native", "exhaustive", large, large)


def test_small_clouds_are_not_worth_trees() -> None:
    assert worth_trees(1, 100_000, 100_000) and worth_trees(16, 10_000, 10_000)
    assert not worth_trees(1, 2000, 2000)
    assert not worth_trees(10_000, 400, 400)  # many, but each soon compared
    assert not worth_trees(1, 100, 10_000_000)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_the_cuda_kernels_compile_without_spills(arch: int, tmp_path: Path) -> None:
    command = ["nvcc", "-cubin", f"-arch=sm_{arch}", "-O3", "-fmad=false", "-std=c++17", "-Xptxas", "-v"]
    command += ["-DPHYS4D_WITH_CUDA", "-o", str(tmp_path / "tree.cubin"), str(SOURCES / "tree_search_cuda.cu")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used = [[int(n) for n in found] for found in re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr
    )]  # fmt: skip
    registers = [int(found) for found in re.findall(r"Used (\d+) registers", done.stderr)]
    assert used == [[0, 0, 0]] * 4 and len(registers) == 4
    assert max(registers) <= 80  # 24 warps an SM


def test_the_native_walk_is_compiled_for_the_trees_that_are_made() -> None:
    header = (SOURCES / "tree_search.h").read_text()
    assert f"kChildren = {CHILDREN};" in header and f"kLeafPoints = {LEAF};" in header
    assert [first_leaf_of(leaves) for leaves in (4, 16, 20, 64)] == [1, 5, 21, 21]
