"""The reward ranks: the truth at 0, then nearby motion, then far motion, then standing still."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.rewards.moving_chamfer import changed, moving_chamfer

FRAMES, SIZE, FOCAL = 9, 32, 40.0


def ball(path: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """video [1, 3, T, H, W], depth [1, T, H, W] and motion [1, 3, T-1, H, W] of a red ball at path [T, 3] metres
    before a grey wall."""
    v, u = torch.meshgrid(*[(torch.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL] * 2, indexing="ij")
    rays = torch.stack((u, v, torch.ones_like(u)), dim=-1)
    square, along = rays.square().sum(-1), torch.einsum("hwi,ti->thw", rays, path)
    inside = along.square() - square * (path.square().sum(-1) - 0.2**2)[:, None, None]
    hit = inside > 0
    depth = torch.where(hit, (along - inside.clamp_min(0).sqrt()) / square, 3.0)
    red = torch.tensor([0.9, -0.8, -0.8]).view(3, 1, 1, 1)
    video = torch.where(hit, red, torch.full((3, 1, 1, 1), 0.1))
    points = rays * depth[:-1, ..., None] + hit[:-1, ..., None] * path.diff(dim=0)[:, None, None]
    landing = points[..., :2] / points[..., 2:] - rays[..., :2]
    motion = torch.cat((landing * FOCAL, points[..., 2:] - depth[:-1, ..., None]), dim=-1)
    return video[None], depth[None], motion.permute(3, 0, 1, 2)[None]


def falling(sideways: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """The true fall for 0; otherwise it drifts sideways, more with every frame, from the same first frame."""
    t = torch.arange(FRAMES) / (FRAMES - 1)
    return ball(torch.stack((-0.1 + sideways * t, -0.3 + 0.5 * t.square(), torch.full_like(t, 2.0)), dim=-1))


def score(video: Tensor, depth: Tensor, motion: Tensor, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    truth_video, truth_depth, truth_motion = falling()
    clips = len(video)
    intrinsics = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    return moving_chamfer(
        video,
        depth,
        motion,
        truth_video=truth_video.expand(clips, -1, -1, -1, -1),
        truth_depth=truth_depth.expand(clips, -1, -1, -1),
        truth_motion=truth_motion.expand(clips, -1, -1, -1, -1),
        intrinsics=intrinsics.expand(clips, FRAMES, 3, 3),
        **options,
    )


def test_the_truth_scores_zero() -> None:
    reward, parts = score(*falling())
    assert reward.tolist() == [0.0]
    assert parts["points"].item() == parts["truth_points"].item() > 20
    assert parts["one_sided"].item() == 0


def test_a_drift_scores_worse_the_further_it_goes() -> None:
    rewards = [score(*falling(sideways))[0].item() for sideways in (0.0, 0.1, 0.2, 0.4, 0.6)]
    assert rewards == sorted(rewards, reverse=True)
    assert all(later < earlier - 0.01 for earlier, later in pairwise(rewards))


def test_standing_still_scores_worst() -> None:
    video, depth, motion = falling()
    still = score(video[:, :, :1].expand_as(video), depth[:, :1].expand_as(depth), motion * 0)
    assert still[0].item() == -2.0
    assert still[1]["one_sided"].item() == 1 and still[1]["points"].item() == 0
    assert still[0] < score(*falling(0.6))[0]


def test_wrong_depth_of_what_moves_costs_what_the_depth_is_off() -> None:
    video, depth, motion = falling()
    near = score(video, torch.where(changed(video, 0.3), depth - 0.1, depth), motion)[0].item()
    assert -0.35 < near < -0.05
    elsewhere = torch.where(changed(video, 0.3), depth, depth - 0.1)
    assert score(video, elsewhere, motion)[0].item() == 0


def test_wrong_motion_of_what_moves_costs_and_elsewhere_does_not() -> None:
    video, depth, motion = falling()
    mask = changed(video, 0.3)[:, None, :-1]
    losses = [score(video, depth, torch.where(mask, motion * factor, motion))[0].item() for factor in (1, 0.5, 0, -1)]
    assert losses[0] == 0 and losses == sorted(losses, reverse=True) and losses[-1] < -0.02
    assert score(video, depth, torch.where(mask, motion, motion + 3))[0].item() == 0


def test_a_clip_scores_the_same_in_any_batch_and_again() -> None:
    clips = [falling(sideways) for sideways in (0.3, 0.0, 0.15)]
    video, depth, motion = (torch.cat(parts) for parts in zip(*clips, strict=True))
    reward, parts = score(video, depth, motion)
    order = torch.tensor([2, 0, 1])
    shuffled, shuffled_parts = score(video[order], depth[order], motion[order])
    assert torch.equal(shuffled, reward[order])
    assert all(torch.equal(shuffled_parts[name], parts[name][order]) for name in parts)
    alone = torch.cat([score(*clip)[0] for clip in clips])
    assert torch.equal(alone, reward)


def test_of_objects_the_small_one_counts_as_much_as_the_large_one() -> None:
    video, depth, motion = falling()
    mask = changed(video, 0.3)
    instance = torch.zeros_like(mask, dtype=torch.uint8)
    instance[:, :, :8] = 1  # the top rows hold a small part of the changed points
    instance[:, :, 8:] = 2
    few, many = (int((mask & (instance == k))[:, 2::2].sum()) for k in (1, 2))
    assert 0 < 4 * few < many
    off = torch.where(mask & (instance == 1), depth - 0.1, depth)
    assert score(video, depth, motion, truth_instance=instance)[0].item() == 0
    together = score(video, off, motion)[0].item()
    by_object = score(video, off, motion, truth_instance=instance)[0].item()
    assert by_object < 1.5 * together < 0
    one = score(video, off, motion, truth_instance=torch.ones_like(instance))[0].item()
    assert one == pytest.approx(together, rel=1e-5)


def test_whole_clouds_are_nearly_blind_to_what_moves() -> None:
    still = score(*falling(0.3))[0].item()
    whole = score(*falling(0.3), points="all")[0].item()
    assert score(*falling(), points="all")[0].item() == 0
    assert still < 5 * whole < 0


def test_pixels_without_a_surface_do_not_count() -> None:
    video, depth, motion = falling()
    hidden = depth.clone()
    hidden[:, :, :, 16:] = 0
    reward, parts = score(video, hidden, motion)
    assert reward.item() < 0 and parts["points"] < parts["truth_points"]


def test_wrong_arguments_are_named() -> None:
    video, depth, motion = falling()
    with pytest.raises(ValueError, match="truth_video: expected shape"):
        score(video[:, :, 1:], depth, motion)
    with pytest.raises(ValueError, match="depth and truth_depth: expected shape"):
        score(video, depth[:, 1:], motion)
    with pytest.raises(ValueError, match="leaves no frame of 9"):
        score(video, depth, motion, frame_stride=9)
