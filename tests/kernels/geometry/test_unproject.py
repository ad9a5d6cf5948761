"""Lifting: projecting the points back gives the pixel centres, and cameras move points rigidly."""

import pytest
import torch

from phys4d.kernels.geometry import advect, unproject


def intrinsics(clips: int, frames: int) -> torch.Tensor:
    matrix = torch.tensor([[50.0, 0.3, 10.5], [0.0, 48.0, 7.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return matrix.expand(clips, frames, 3, 3).contiguous()


def rigid(clips: int, frames: int) -> torch.Tensor:
    rotation = torch.linalg.qr(torch.randn(clips, frames, 3, 3, dtype=torch.float64)).Q
    pose = torch.eye(4, dtype=torch.float64).repeat(clips, frames, 1, 1)
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = torch.randn(clips, frames, 3, dtype=torch.float64)
    return pose


def test_projecting_back_gives_pixel_centres_and_depth() -> None:
    torch.manual_seed(0)
    depth = torch.rand(2, 3, 5, 7, dtype=torch.float64) + 0.5
    camera = intrinsics(2, 3)
    pixels = torch.einsum("btij,bthwj->bthwi", camera, unproject(depth, camera))
    torch.testing.assert_close(pixels[..., 2], depth)
    pixels = pixels[..., :2] / pixels[..., 2:]
    torch.testing.assert_close(pixels[..., 0], (torch.arange(7.0, dtype=torch.float64) + 0.5).expand(2, 3, 5, 7))
    rows = (torch.arange(5.0, dtype=torch.float64) + 0.5)[:, None].expand(2, 3, 5, 7)
    torch.testing.assert_close(pixels[..., 1], rows)


def test_world_points_return_through_the_inverse_pose() -> None:
    torch.manual_seed(1)
    depth = torch.rand(2, 3, 4, 5, dtype=torch.float64) + 0.5
    camera, pose = intrinsics(2, 3), rigid(2, 3)
    world = unproject(depth, camera, pose)
    homogeneous = torch.cat((world, torch.ones_like(world[..., :1])), dim=-1)
    back = torch.einsum("btij,bthwj->bthwi", pose.inverse(), homogeneous)[..., :3]
    torch.testing.assert_close(back, unproject(depth, camera))


def test_gradients() -> None:
    torch.manual_seed(2)
    depth = torch.rand(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    camera, pose = intrinsics(1, 2).requires_grad_(), rigid(1, 2).requires_grad_()
    assert torch.autograd.gradcheck(unproject, (depth, camera, pose))


def test_wrong_arguments_are_named() -> None:
    depth = torch.rand(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"intrinsics: expected shape \[1, 2, 3, 3\], got \[1, 3, 3\]"):
        unproject(depth, torch.eye(3)[None])
    with pytest.raises(ValueError, match=r"camera_to_world: expected shape \[1, 2, 4, 4\]"):
        unproject(depth, torch.eye(3).expand(1, 2, 3, 3), torch.eye(4))
    with pytest.raises(ValueError, match="depth: expected float32 or float64, got float16"):
        unproject(depth.half(), torch.eye(3).expand(1, 2, 3, 3))


def test_advected_points_project_to_where_the_motion_lands() -> None:
    torch.manual_seed(2)
    depth = torch.rand(2, 3, 4, 5, dtype=torch.float64) + 0.5
    motion = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64) * 0.2
    camera = intrinsics(2, 3)
    pixels = torch.einsum("btij,bthwj->bthwi", camera[:, 1:], advect(depth, motion, camera))
    torch.testing.assert_close(pixels[..., 2], depth[:, :-1] + motion[:, 2])
    u = pixels[..., 0] / pixels[..., 2] - torch.arange(5.0, dtype=torch.float64) - 0.5
    torch.testing.assert_close(u, motion[:, 0])
    still = advect(depth, torch.zeros_like(motion), camera)
    torch.testing.assert_close(still, unproject(depth, camera)[:, :-1])


def test_motion_leads_to_the_next_frames_camera() -> None:
    """One pixel, centre (0.5, 0.5), in three frames of focal lengths 1, 2 and 4 and centres 0, (1, 2) and (3, 4).

    Of frame 0: (0.5 + 1, 0.5 - 2) at 1 + 0.5 m, seen from frame 1; of frame 1: (0.5 + 3, 0.5 + 5) at 2 - 1 m.
    """
    cameras = [[[1.0, 0, 0], [0, 1, 0]], [[2, 0.5, 1], [0, 2, 2]], [[4, 0, 3], [0, 5, 4]]]
    camera = torch.tensor([[*rows, [0, 0, 1]] for rows in cameras])[None]
    depth = torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1)
    motion = torch.tensor([[1.0, 3], [-2, 5], [0.5, -1]]).view(1, 3, 2, 1, 1)
    down = (-1.5 - 2) / 2
    expected = [[(1.5 - 1 - 0.5 * down) / 2 * 1.5, down * 1.5, 1.5], [(3.5 - 3) / 4, (5.5 - 4) / 5, 1]]
    torch.testing.assert_close(advect(depth, motion, camera).view(2, 3), torch.tensor(expected))
