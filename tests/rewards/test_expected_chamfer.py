"""The reward as an expectation: by hand, its limit, its gradient."""

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


def test_two_pixels_by_hand() -> None:
    """Depth 1 and focal length 1: pixels a metre apart. Truth shows the left one, ours each with its probability."""
    changes = torch.tensor([0.35, 0.2], dtype=torch.float64)
    video = torch.zeros(1, 3, 3, 1, 2, dtype=torch.float64)
    video[:, 0, 1:, 0] = changes
    true = torch.zeros_like(video)
    true[:, 0, 1:, 0, 0] = 1
    depth = torch.ones(1, 3, 1, 2, dtype=torch.float64)
    motion = torch.zeros(1, 3, 2, 1, 2, dtype=torch.float64)
    score = expected_chamfer(
        video, depth, motion, truth_video=true, truth_depth=depth, truth_motion=motion,
        intrinsics=torch.eye(3, dtype=torch.float64).expand(1, 3, 3, 3), softness=0.05, cap=7.0,
    )  # fmt: skip
    left, right = (1 / (1 + math.exp(-(change - 0.3) / 0.05)) for change in changes.tolist())
    towards = right / (left + right)
    back = (1 - left) * right  # where neither is there, the left one, which is likely, at distance 0
    none = (1 - left) * (1 - right)
    assert score.item() == pytest.approx(-((1 - none) * (towards + back) + none * 7.0))


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
