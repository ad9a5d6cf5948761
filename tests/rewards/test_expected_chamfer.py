"""The reward as an expectation: by hand, its limit, its gradient."""

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.rewards import expected_chamfer as module
from phys4d.rewards.expected_chamfer import expected_chamfer
from phys4d.rewards.moving_chamfer import moving_chamfer

SIZE = (5, 6, 8)


def clip(seed: int, share: float = 0.3) -> dict[str, Tensor]:
    """Two random clips of 5 frames in fp64, in which that share of the pixels changes."""
    draw = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.rand(2, *shape, generator=draw, dtype=torch.float64)

    video = 2 * numbers(3, *SIZE) - 1
    stays = numbers(1, *SIZE) > share
    return {
        "video": torch.where(stays, video[:, :, :1], video),
        "depth": 1 + numbers(*SIZE),
        "motion": 0.2 * numbers(3, SIZE[0] - 1, *SIZE[1:]) - 0.1,
    }


def against(truth: dict[str, Tensor]) -> dict[str, Tensor]:
    """Arguments for the truth, with a camera."""
    camera = torch.tensor([[9.0, 0, 4], [0, 9, 3], [0, 0, 1]], dtype=torch.float64)
    return {f"truth_{name}": array for name, array in truth.items()} | {"intrinsics": camera.expand(2, 5, 3, 3)}


def test_without_softness_it_is_the_reward_that_asks_yes_or_no() -> None:
    ours, truth = clip(0), against(clip(1))
    hard, _ = moving_chamfer(*ours.values(), **truth)
    torch.testing.assert_close(expected_chamfer(*ours.values(), **truth, softness=1e-6), hard)


@pytest.mark.parametrize("still", ["ours", "truth", "both"])
def test_frames_in_which_one_side_shows_no_change_cost_the_cap(still: str) -> None:
    ours, true = clip(0), clip(1)
    for name, one in (("ours", ours), ("truth", true)):
        if still in (name, "both"):
            one["video"] = one["video"][:, :, :1].expand(-1, -1, 5, -1, -1)
    hard, _ = moving_chamfer(*ours.values(), **against(true), cap=1.5)
    soft = expected_chamfer(*ours.values(), **against(true), softness=1e-6, cap=1.5)
    torch.testing.assert_close(soft, hard)
    assert soft.tolist() == ([0, 0] if still == "both" else [-1.5, -1.5])


def row(*changes: float) -> dict[str, Tensor]:
    """A clip of 3 frames of one row of pixels a metre apart, at depth 1, which change so much from frame 1 on."""
    video = torch.zeros(1, 3, 3, 1, len(changes), dtype=torch.float64)
    video[:, 0, 1:, 0] = torch.tensor(changes, dtype=torch.float64)
    return {"video": video, "depth": torch.ones_like(video[:, 0]), "motion": torch.zeros_like(video[:, :, 1:])}


def of_row(ours: dict[str, Tensor], truth: dict[str, Tensor], **options: Any) -> Tensor:
    """The score of a row, softness 0.05 and cap 7; the last frame has no motion, and is the only one that counts."""
    names = {f"truth_{name}": array for name, array in truth.items()}
    camera = torch.eye(3, dtype=torch.float64).expand(1, 3, 3, 3)
    return expected_chamfer(*ours.values(), **names, intrinsics=camera, softness=0.05, cap=7.0, **options)


def chance(change: float) -> float:
    return 1 / (1 + math.exp(-(change - 0.3) / 0.05))


@pytest.mark.parametrize("neighbours", [1, 2, 3])
def test_a_row_of_pixels_by_hand(neighbours: int) -> None:
    """The truth shows the left one. The right one is likely, and stands for what is farther than those looked at."""
    changes = (0.25, 0.28, 0.4)
    left, mid, right = map(chance, changes)
    score = of_row(row(*changes), row(1, 0, 0), neighbours=neighbours)
    towards = (mid + 2 * right) / (left + mid + right)
    farther = [2, mid + (1 - mid) * 2, mid + (1 - mid) * (right * 2 + (1 - right) * 2)]
    back = (1 - left) * farther[neighbours - 1]
    none = (1 - left) * (1 - mid) * (1 - right)
    assert score.item() == pytest.approx(-((1 - none) * (towards + back) + none * 7))


def test_pixels_of_less_than_a_hundredth_are_left_out_and_those_without_a_surface() -> None:
    for change, counts in ((0.3 + 0.05 * math.log(0.012 / 0.988), True), (0.3 + 0.05 * math.log(0.009 / 0.991), False)):
        alone, beside = (of_row(row(0.5, other), row(1, 0)).item() for other in (0.0, change))
        assert (beside != alone) == counts
    ours = row(0.5, 0.5)
    ours["depth"][..., 1] = 0
    assert of_row(ours, row(1, 0)).item() == pytest.approx(of_row(row(0.5, 0.0), row(1, 0)).item(), rel=1e-9)


def test_a_still_clip_has_a_score_and_a_gradient_of_nothing() -> None:
    ours = row(0.0, 0.01)
    video = ours["video"].requires_grad_()
    score = of_row(ours, row(1, 0))
    assert score.item() == -7
    score.backward()
    assert video.grad is not None and not video.grad.any()


def test_what_it_shares_with_the_other_reward_it_shares() -> None:
    ours, other = (inspect.signature(reward).parameters for reward in (expected_chamfer, moving_chamfer))
    for name in ("frame_stride", "threshold", "cap"):
        assert ours[name].default == other[name].default, name
    assert ours["softness"].default == 0.1 and ours["neighbours"].default == 8


def test_its_gradient_is_that_of_its_values() -> None:
    ours, truth = clip(2), against(clip(3))
    given = [x.requires_grad_() for x in ours.values()]
    assert torch.autograd.gradcheck(lambda *x: expected_chamfer(*x, **truth), given, fast_mode=True, atol=1e-5)
    video = torch.autograd.grad(expected_chamfer(*given, **truth).sum(), given[0])[0]
    assert (video[:, :, 2::2] != 0).any() and not video[:, :, 1::2].any()  # of the frames that are scored


@pytest.mark.parametrize(("changes", "column", "sign"), [((0.2, 0.0), 1, 1), ((0.6, 0.35), 6, -1)])
def test_pixels_are_pulled_to_change_where_the_truth_does_and_to_stay_elsewhere(
    changes: tuple[float, float], column: int, sign: int
) -> None:
    """The truth changes in column 1; ours hardly does there, or in column 6, too."""
    ours, true = clip(4, share=0.0), clip(5, share=0.0)
    for one, columns in ((ours, {1: changes[0], 6: changes[1]}), (true, {1: 0.5})):
        one["depth"].fill_(1.0)
        for at, change in columns.items():
            one["video"][:, 0, 1:, 2, at] = one["video"][:, 0, :1, 2, at] + change
    video = ours["video"].requires_grad_()
    expected_chamfer(video, ours["depth"], ours["motion"], **against(true)).sum().backward()
    gradient = video.grad
    assert gradient is not None and (sign * gradient[:, 0, 2, 2, column] > 0.01).all()


def test_pairs_are_held_in_chunks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, truth = clip(0), against(clip(1))
    whole = expected_chamfer(*ours.values(), **truth)
    monkeypatch.setattr(module, "_PAIRS", 3)
    assert torch.equal(expected_chamfer(*ours.values(), **truth), whole)


def test_points_that_coincide_have_no_infinite_gradient() -> None:
    truth: dict[str, Any] = clip(0)
    given = [x.clone().requires_grad_() for x in truth.values()]
    expected_chamfer(*given, **against(truth)).sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in given)
