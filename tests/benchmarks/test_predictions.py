"""What is predicted of the kernels: the work that is counted, and the rates and floors that bound a prediction."""

import itertools
from unittest.mock import patch

import pytest

from phys4d.benchmarks import predictions, results
from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, NORM_ROPE, AttentionCase
from phys4d.benchmarks.predictions import PARTS, issuing, moved, predict, rate, work
from phys4d.kernels.attention import Full, Temporal, Window, allowed, window

KERNELS = results.committed("machine-code.json")


def case(pattern, grid, heads=2, dim=64, batch=3) -> AttentionCase:
    return AttentionCase("case", "a model", pattern, batch, grid, heads, dim)


def test_full_attention_takes_what_is_needed_and_two_products_more_backward() -> None:
    even = case(Full(), (4, 16, 16))  # 1,024 tokens: whole tiles
    assert work(even, "forward") == even.flops("forward")
    assert work(even, "backward") == even.flops("backward") * 7 / 5
    odd = case(Full(), (1, 1, 129), dim=72)  # 129 tokens: two tiles of 128, three of 64; 64 + 16 lanes
    tiles = {"BLOCK_M": 128, "BLOCK_N": 64}
    with patch.object(predictions.flash, "config", return_value=tiles):
        assert work(odd, "forward") == 3 * 2 * 256 * 192 * 80 * 4


def test_temporal_attention_takes_whole_tiles_of_rows() -> None:
    rows = case(Temporal(), (15, 3, 5))  # 90 rows, 16 frames each: 4 rows a tile of 64 tokens, 23 tiles
    assert work(rows, "forward") == 23 * 64 * 64 * 64 * 4
    assert work(rows, "backward") == 23 * 64 * 64 * 64 * 10


@pytest.mark.parametrize("kernel", ["forward", "keys"])
@pytest.mark.parametrize(("grid", "sizes"), [((5, 4, 6), (3, 4, 2)), ((3, 7, 5), (1, 3, 3))])
def test_windows_take_whole_stretches_of_what_a_box_meets(grid, sizes, kernel) -> None:
    cells, stretch = 8, 4
    sees = allowed(Window(*sizes), grid, None).unflatten(1, grid).unflatten(0, grid)
    if kernel == "keys":
        sees = sees.permute(3, 4, 5, 0, 1, 2)
    sides = window.box(grid, sizes, cells, stretch)
    met = 0
    for t, h, w in itertools.product(*(range(0, size, side) for size, side in zip(grid, sides, strict=True))):
        box = sees[t : t + sides[0], h : h + sides[1], w : w + sides[2]].flatten(0, 2).any(0)
        times, plane = int(box.any(2).any(1).sum()), int(box.any(0).sum())
        met += times * -(-plane // stretch) * stretch
    with patch.object(window, "config", return_value=(cells, {"BLOCK_N": stretch})):
        assert predictions._pairs(case(Window(*sizes), grid), kernel) == 3 * 2 * cells * met


@pytest.mark.parametrize("case", [*ATTENTION, *NORM_ROPE, *ADAPTIVE_NORM], ids=lambda case: case.name)
def test_nothing_is_predicted_to_beat_its_floor_or_the_rates_it_rests_on(case) -> None:
    for part in PARTS:
        found = predict(case, part, KERNELS)
        assert found.milliseconds == max(found.by_memory, found.by_products, found.by_issue) >= found.floor
        assert found.work >= found.flops and found.moved >= found.bytes
        expected = "memory" if isinstance(getattr(case, "pattern", None), Temporal | None) else "products"
        if getattr(case, "lanes", None) and isinstance(case, AttentionCase):
            expected = "instructions"
        assert found.reason.startswith(expected)


def test_issuing_counts_every_warp_of_every_program() -> None:
    stress = next(case for case in ATTENTION if case.name == "temporal-stress")
    (count,) = [
        kernel["instructions"]["total"]
        for kernel in KERNELS
        if (kernel["case"], kernel["kernel"], kernel["arch"]) == (stress.name, "short_rows.forward", 90)
    ]
    programs = 32 * 64 * 64 * 16 // 4  # four rows of 16 frames each
    assert issuing(stress, "forward", KERNELS) == pytest.approx(count * 4 * programs / (132 * 4 * 1.83e6))


def test_the_rates_are_those_of_the_published_figures() -> None:
    assert rate(64, "forward") == rate(72, "forward") == 403
    assert rate(128, "forward") == 436
    assert rate(128, "backward") == pytest.approx(436 * 0.862, rel=1e-3)  # 322/370, 561/648 and 516/606
    assert rate(64, "backward") == pytest.approx(403 * 0.967, rel=1e-3)  # 291/324, 474/497 and 433/413


def test_gate_residual_norm_and_modulation_move_what_their_kernels_read_and_write() -> None:
    """Counted by hand for Wan's 27,280 tokens of 3,072 channels, with one row for all and with one for each."""
    one, each = (next(c for c in ADAPTIVE_NORM if c.name == name) for name in ("wan-adaptive", "wan-adaptive-tokens"))
    tokens, row = 27_280 * 3072 * 2, 3072 * 4
    programs = -(-27_280 // -(-27_280 // 1056))
    assert moved(one, "forward", KERNELS) == 4 * tokens + 8 * 27_280 + programs * 3 * row
    length = -(-27_280 // 528)  # tokens a program backward, which leaves its sums of factor, offset and gate
    programs = -(-27_280 // length)
    sums = 3 * row * (2 * programs + 1)
    assert moved(one, "backward", KERNELS) == 6 * tokens + 8 * 27_280 + programs * 2 * row + sums
    assert moved(each, "forward", KERNELS) == each.bytes("forward") + 8 * 27_280
    assert moved(each, "backward", KERNELS) == each.bytes("backward") + 8 * 27_280  # sums of one token are gradients
