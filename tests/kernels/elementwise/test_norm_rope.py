"""Norm and rotation: the definition against other people's formulas, the kernels against the definition."""

import importlib
import math

import pytest
import torch
import torch.nn.functional as F

from phys4d.kernels.attention import Temporal, attention
from phys4d.kernels.elementwise import QKNorm, Rope, norm_rope, norm_rope_reference, qk_norm_rope

GRID = (2, 3, 2)
ONE_OF_EACH = [  # kind, heads, D, channels per axis, layout, text, bias
    ("rms", 3, 16, (8, 4, 4), "interleaved", None, False),
    ("layer", 2, 24, (8, 4, 4), "interleaved", (3, "first"), True),
    ("rms_across_heads", 3, 20, (8, 6, 6), "half", (2, "last"), False),
    ("rms", 2, 72, (72, 0, 0), "interleaved", None, False),
    ("layer", 2, 32, None, None, None, True),
    (None, 2, 16, (8, 4, 4), "half", (1, "first"), False),
]


def example(kind, heads, dim, channels, layout, text, bias, dtype=torch.float32, device="cpu", seed=0):
    """The arguments of norm_rope; x is a view of fused queries, keys and values."""
    generator = torch.Generator().manual_seed(seed)
    count = 12 + (text[0] if text else 0)
    x = torch.randn(2, count, 3, heads, dim, generator=generator).to(device, dtype)[:, :, 1].requires_grad_()
    numbers = heads * dim if kind == "rms_across_heads" else dim
    weight, offset = (torch.randn(numbers, generator=generator).to(device, dtype).requires_grad_() for _ in range(2))
    rope = Rope.make((5, 4, 3), channels, layout=layout, device=device) if layout else None
    begin = -text[0] if text and text[1] == "first" else 0
    return x, weight if kind else None, offset if bias else None, kind, 1e-6, rope, GRID, begin


def both(arguments):
    """(result, gradients) by norm_rope, and by the definition in float64."""
    x, weight, bias, *rest = arguments
    leaves = [t for t in (x, weight, bias) if t is not None]
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).to(x.device, x.dtype)
    y = norm_rope(*arguments)
    exact = [t.detach().double().requires_grad_() if t is not None else None for t in (x, weight, bias)]
    kind, epsilon, rope, grid, begin = rest
    truth = norm_rope_reference(*exact, kind or "", epsilon, rope, grid, begin)
    return (y.detach(), torch.autograd.grad(y, leaves, dy)), (
        truth.detach(),
        torch.autograd.grad(truth, [t for t in exact if t is not None], dy.double()),
    )


def check(found, truth, tolerance):
    assert (found[0].double() - truth[0]).abs().max() <= tolerance * truth[0].abs().max()
    for mine, exact in zip(found[1], truth[1], strict=True):
        assert (mine.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.interpreted
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: f"{case[0]}-{case[4]}")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_the_kernels_compute_the_definition(case, dtype, tolerance, device):
    check(*both(example(*case, dtype=dtype, device=device)), tolerance)


@pytest.mark.interpreted
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: f"{case[0]}-{case[4]}")
def test_every_element_is_written_and_two_runs_are_bit_equal(case, device):
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3, device=device).isnan().all()
        runs = [both(example(*case, device=device))[0] for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    for one, two in zip((runs[0][0], *runs[0][1]), (runs[1][0], *runs[1][1]), strict=True):
        assert torch.equal(one, two) and one.isfinite().all()


@pytest.mark.interpreted
@pytest.mark.parametrize("heads", [1, 2, 3, 5])
def test_more_tokens_than_programs(heads, device, monkeypatch):
    module = importlib.import_module("phys4d.kernels.elementwise.norm_rope_ops")
    monkeypatch.setattr(module, "_PROGRAMS", 5)
    check(*both(example("rms", heads, 16, (8, 4, 4), "interleaved", None, False, device=device)), 2e-6)


@pytest.mark.interpreted
@pytest.mark.parametrize("case", [ONE_OF_EACH[1], ONE_OF_EACH[2], ONE_OF_EACH[5]], ids=["layer", "across", "none"])
def test_the_operator_keeps_torchs_contract(case, device):
    x, weight, bias, kind, epsilon, rope, grid, begin = example(*case, device=device)
    operator = torch.ops.phys4d.norm_rope.default
    flat = (kind or "", epsilon, *rope.tables, rope.layout, list(grid), begin)
    torch.library.opcheck(operator, (x, weight, bias, *flat))


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: f"{case[0]}-{case[4]}")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_on_the_cpu_it_is_the_definition(case, dtype, tolerance):
    check(*both(example(*case, dtype=dtype)), tolerance)


def test_the_norms_are_torchs():
    x, weight, bias, *_ = example("layer", 3, 16, (8, 4, 4), "interleaved", None, True)
    grid = GRID, 0
    layer = norm_rope_reference(x, weight, bias, "layer", 1e-6, None, *grid)
    torch.testing.assert_close(layer, F.layer_norm(x, (16,), weight, bias, 1e-6))
    rms = norm_rope_reference(x, weight, None, "rms", 1e-6, None, *grid)
    torch.testing.assert_close(rms, F.rms_norm(x, (16,), weight, 1e-6))
    wide = torch.randn(48, generator=torch.Generator().manual_seed(2))
    across = norm_rope_reference(x, wide, None, "rms_across_heads", 1e-6, None, *grid)
    torch.testing.assert_close(across, F.rms_norm(x.flatten(2), (48,), wide, 1e-6).view_as(x))


def test_epsilon_is_added_to_the_mean_square():
    """rms: over sqrt(12.5 + 3.5); layer: +-0.5 over sqrt(0.25 + 0.75), times 2, plus 1; across heads: as rms, of 4."""
    ones, grid = torch.ones(2), ((1, 1, 1), 0)
    one, two = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([3.0, 5, 0, 4]).view(1, 1, 2, 2)
    assert norm_rope_reference(one, ones, None, "rms", 3.5, None, *grid).flatten().tolist() == [0.75, 1]
    layer = norm_rope_reference(one - 1.5, 2 * ones, ones, "layer", 0.75, None, *grid)
    assert layer.flatten().tolist() == [0, 2]
    across = norm_rope_reference(two, torch.ones(4), None, "rms_across_heads", 3.5, None, *grid)
    assert across.flatten().tolist() == [0.75, 1.25, 0, 1]


def test_tokens_before_and_after_the_video_are_not_rotated_and_all_of_it_is():
    """Angles that are not 0 at position 0: of time 0.1 and 0.2, of width 0.4 and 0.8, one pair of channels each."""
    time, width = (torch.tensor(angles)[:, None, None] for angles in ([0.1, 0.2], [0.4, 0.8]))
    tables = [torch.cat((angle.cos(), angle.sin()), -1) for angle in (time, width)]
    rope = Rope((tables[0], torch.ones(1, 0, 2), tables[1]))
    x = torch.tensor([1.0, 0, 0, 2]).expand(1, 6, 1, 4)
    found = norm_rope_reference(x, None, None, "", 0, rope, (2, 1, 2), -1)[0, :, 0]
    expected = [[1.0, 0, 0, 2]]
    for t, w in ((0.1, 0.4), (0.1, 0.8), (0.2, 0.4), (0.2, 0.8)):
        expected.append([math.cos(t), math.sin(t), -2 * math.sin(w), 2 * math.cos(w)])
    torch.testing.assert_close(found, torch.tensor([*expected, [1.0, 0, 0, 2]]))


def test_interleaved_rotation_is_multiplication_of_complex_numbers():
    x, *_ = example(None, 2, 16, (8, 4, 4), "interleaved", (3, "first"), False)
    rope = Rope.make(GRID, (8, 4, 4))
    found = norm_rope_reference(x, None, None, "", 0, rope, GRID, -3)
    assert torch.equal(found[:, :3], x[:, :3])  # text
    factors = [torch.view_as_complex(table) for table in rope.tables]
    turns = torch.cat(
        [
            factors[0][:, None, None].expand(*GRID, -1),
            factors[1][None, :, None].expand(*GRID, -1),
            factors[2][None, None].expand(*GRID, -1),
        ],
        dim=-1,
    ).flatten(0, 2)
    numbers = torch.view_as_complex(x[:, 3:].unflatten(-1, (8, 2)).contiguous()) * turns[:, None]
    torch.testing.assert_close(found[:, 3:], torch.view_as_real(numbers).flatten(-2))


def test_the_tables_in_numbers():
    """Of 4 channels in 3 positions the pairs turn by 1 and theta^-1/2 each, of 2 by 1; an axis without has none."""
    rope = Rope.make((3, 2, 5), (4, 2, 0), theta=100.0)
    turns = [[[p, 0.1 * p] for p in range(3)], [[p] for p in range(2)]]
    for table, angles in zip(rope.tables, turns, strict=False):
        expected = [[[math.cos(a), math.sin(a)] for a in pairs] for pairs in angles]
        torch.testing.assert_close(table, torch.tensor(expected))
    assert rope.tables[2].shape == (5, 0, 2) and rope.pairs == 3 and rope.layout == "interleaved"
    usual = Rope.make((2, 1, 1), (4, 0, 0)).tables[0]
    assert usual[1, 1].tolist() == pytest.approx([math.cos(0.01), math.sin(0.01)])  # theta is 10,000


def test_half_layout_is_the_interleaved_one_with_its_lanes_sorted():
    x, *_ = example(None, 2, 16, (8, 4, 4), "half", None, False)
    order = torch.arange(16).view(2, 8).T.flatten()  # 0, 8, 1, 9, ...
    half = norm_rope_reference(x, None, None, "", 0, Rope.make(GRID, (8, 4, 4), layout="half"), GRID, 0)
    interleaved = norm_rope_reference(x[..., order], None, None, "", 0, Rope.make(GRID, (8, 4, 4)), GRID, 0)
    torch.testing.assert_close(half[..., order], interleaved)


def test_scores_depend_on_distance_alone():
    """Queries and keys moved by the same number of places have the same products: what the rotation is for."""
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(4)).expand(2, 1, 60, 1, 16)
    rope = Rope.make((3, 4, 5), (8, 4, 4))
    q, k = qk_norm_rope(q, k, None, rope, grid=(3, 4, 5))
    scores = (q[0, :, 0] @ k[0, :, 0].T).view(3, 4, 5, 3, 4, 5)
    torch.testing.assert_close(scores[0, 1, 1, 1, 2, 3], scores[1, 2, 2, 2, 3, 4])


def test_a_part_of_the_sequence_is_rotated_as_in_the_whole():
    x, *_ = example(None, 2, 16, (8, 4, 4), "interleaved", (3, "first"), False)
    rope = Rope.make(GRID, (8, 4, 4))
    whole, _ = qk_norm_rope(x, x, None, rope, grid=GRID, text=(3, "first"))
    part, _ = qk_norm_rope(x[:, 5:11], x[:, 5:11], None, rope, grid=GRID, text=(3, "first"), start=5)
    assert torch.equal(part, whole[:, 5:11])


def test_attention_norms_and_rotates_before_all_else():
    x, weight, *_ = example("rms", 2, 16, (8, 4, 4), "interleaved", None, False)
    norm, rope = QKNorm("rms", weight, weight.detach() * 2), Rope.make(GRID, (8, 4, 4))
    q, k = qk_norm_rope(x, x.detach() * 3, norm, rope, grid=GRID)
    asked = {"grid": GRID, "pattern": Temporal()}
    whole = attention(x, x.detach() * 3, x, qk_norm=norm, rope=rope, **asked)
    torch.testing.assert_close(whole, attention(q, k, x, **asked))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 12, 2, 15)}, "even, contiguous D"),
        ({"weight": torch.zeros(15)}, r"expected weight \[16\], got \[15\]"),
        ({"weight": None}, r"expected weight \[16\], got None"),
        ({"kind": "batch"}, "rms, layer or rms_across_heads"),
        ({"bias": torch.zeros(16)}, "has no bias"),
        ({"grid": (6, 3, 2)}, "time table has 5 positions, the grid has 6"),
        ({"rope": Rope.make((5, 4, 3), (16, 4, 4))}, "12 pairs"),
        ({"rope": Rope.make((5, 4, 3), (4, 4, 4), layout="half")}, "6 pairs"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    names = ("x", "weight", "bias", "kind", "epsilon", "rope", "grid", "begin")
    arguments = dict(zip(names, example("rms", 2, 16, (8, 4, 4), "interleaved", None, False), strict=True))
    with pytest.raises(ValueError, match=message):
        norm_rope(**(arguments | change))


def test_tables_that_are_none_are_refused():
    good = Rope.make((2, 2, 2), (4, 4, 4)).tables
    with pytest.raises(ValueError, match="height table must be float32"):
        Rope((good[0], good[1][..., 0], good[2]))
    for table in (good[0].repeat(1, 1, 2), good[0].half()):
        with pytest.raises(ValueError, match="time table must be float32"):
            Rope((table, *good[1:]))
    assert Rope((good[0].double(), *good[1:])).tables[0].dtype == torch.float64
    with pytest.raises(ValueError, match="layout"):
        Rope(good, "quarter")
    with pytest.raises(ValueError, match="even number of channels"):
        Rope.make((2, 2, 2), (3, 4, 4))


def test_moving_a_rotation_moves_every_table_and_makes_no_copy_where_they_are():
    time, height, width = Rope.make((2, 3, 4), (4, 2, 2), layout="half").tables
    there = Rope((time, height.to("meta"), width), "half").to("meta")
    assert [table.device.type for table in there.tables] == ["meta"] * 3 and there.layout == "half"
    assert there.to("meta") is there
