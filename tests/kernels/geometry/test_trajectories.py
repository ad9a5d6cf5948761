"""Trajectories from depth and motion, on surfaces whose motion is known in closed form."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry import Trajectories, lift_4d, unproject

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])
FOCAL, HEIGHT, WIDTH, FRAMES = 40.0, 20, 24, 5
STEP = torch.tensor([0.04, -0.03, 0.06], dtype=torch.float64)
Clip = tuple[Tensor, Tensor, Tensor]


def intrinsics(frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    matrix = torch.tensor([[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1]], dtype=torch.float64)
    return matrix.expand(1, frames, 3, 3)


def slanted_plane() -> Clip:
    """Depth, motion, intrinsics of a plane n.p = c that moves by STEP metres a frame, seen by a camera at rest."""
    normal = torch.tensor([0.35, -0.6, 1.0], dtype=torch.float64)
    rays = unproject(torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.float64), intrinsics(1))[0, 0]
    depth = torch.stack([(2.5 + frame * (normal @ STEP)) / (rays @ normal) for frame in range(FRAMES)])
    after = rays * depth[:-1, ..., None] + STEP
    flow = FOCAL * (after[..., :2] / after[..., 2:] - rays[..., :2])
    motion = torch.cat((flow, after[..., 2:] - depth[:-1, ..., None]), -1)
    return depth[None], motion.permute(3, 0, 1, 2)[None], intrinsics()


def passing() -> Clip:
    """Something 3 pixels wide at 2 m moves right by half a pixel a frame before a wall at 4 m."""
    depth = torch.full((1, FRAMES, 3, 12), 4.0, dtype=torch.float64)
    motion = torch.zeros(1, 3, FRAMES - 1, 3, 12, dtype=torch.float64)
    for frame in range(FRAMES):
        left = 3 + (frame + 1) // 2  # a pixel shows it where its centre does
        depth[:, frame, :, left : left + 3] = 2.0
        motion[:, 0, frame : frame + 1, :, left : left + 3] = 0.5
    return depth, motion, intrinsics(FRAMES, 3, 12)


def same(first: Trajectories, second: Trajectories) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("start", [0, 2])
def test_points_of_a_moving_plane_move_with_it(start: int, backend: str) -> None:
    """Motion between pixels is interpolated, which is not exact in perspective; depth is."""
    depth, motion, camera = slanted_plane()
    found = lift_4d(depth, motion, camera, start=start, tolerance=0.2, backend=backend)
    first = unproject(depth, camera)[:, start].flatten(1, 2)
    steps = torch.arange(FRAMES - start, dtype=torch.float64)[:, None, None] * STEP
    gap = (found.points - (first[:, None] + steps)).norm(dim=-1)
    assert found.points.shape == (1, FRAMES - start, HEIGHT * WIDTH, 3)
    assert found.valid[:, 0].all() and found.valid.double().mean() > 0.8
    size = torch.tensor([WIDTH, HEIGHT])
    inner = found.valid & ((found.pixels >= 0.5) & (found.pixels <= size - 0.5)).all(-1)
    inner = inner.cumprod(1).bool()  # in the half-pixel rim depth is that of the nearest pixel: off by half a slope
    assert gap[inner].max() < 5e-4 and gap[:, 1][inner[:, 1]].max() < 1e-12 and inner.sum() > 0.9 * found.valid.sum()
    assert gap[found.valid].max() < 0.03
    assert not found.points[~found.valid].any() and not found.pixels[~found.valid].any()
    assert not (found.valid[:, 1:] & ~found.valid[:, :-1]).any()
    again = FOCAL * found.points[..., :2] / found.points[..., 2:] + torch.tensor([WIDTH / 2, HEIGHT / 2])
    torch.testing.assert_close(again[found.valid], found.pixels[found.valid])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("instances", [False, True])
def test_edges_neither_mix_nor_stop_what_moves_and_what_is_covered_ends(instances: bool, backend: str) -> None:
    depth, motion, camera = passing()
    instance = torch.where(depth == 2, 7, 0) if instances else None
    found = lift_4d(depth, motion, camera, instance=instance, backend=backend)
    points, valid = found.points.view(1, FRAMES, 3, 12, 3), found.valid.view(1, FRAMES, 3, 12)
    thing = torch.zeros(3, 12, dtype=torch.bool)
    thing[:, 3:6] = True
    assert valid[..., thing].all() and (points[..., 2][:, :, thing] == 2).all()
    moved = points[:, :, thing] - points[:, :1, thing]
    steps = torch.arange(FRAMES, dtype=torch.float64) * 0.5 * 2 / FOCAL
    torch.testing.assert_close(moved[..., 0], steps[:, None].expand_as(moved[0, ..., 0])[None])
    # The right edge passes columns 6 and 7, and comes to rest where column 8 begins.
    assert valid[:, 0].all() and not valid[0, -1, :, 6:8].any()
    assert valid[0, -1, :, :3].all() and valid[0, -1, :, 9:].all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_point_that_leaves_or_loses_its_surface_never_comes_back(backend: str) -> None:
    depth = torch.full((1, 3, 2, 6), 2.0, dtype=torch.float64)
    motion = torch.zeros(1, 3, 2, 2, 6, dtype=torch.float64)
    motion[:, 0, 0], motion[:, 0, 1] = 1.0, -1.0
    depth[:, 1, :, 3] = 0
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[:, 1, :, 5] = False
    depth[:, 1, :, 5] = torch.nan
    found = lift_4d(depth, motion, intrinsics(3, 2, 6), valid=valid, backend=backend).valid.view(3, 2, 6)
    assert found[0].all()
    for after in found[1:]:
        assert after[0].tolist() == after[1].tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_visibility_that_is_given_is_obeyed_and_motion_that_is_no_number_ends_a_point(backend: str) -> None:
    depth, motion, camera = slanted_plane()
    visible = torch.ones_like(depth[:, 1:], dtype=torch.bool)
    visible[:, 1, :, 10:] = False
    found = lift_4d(depth, motion, camera, visible=visible, backend=backend)
    free = lift_4d(depth, motion, camera, visible=torch.ones_like(visible), backend=backend)
    shown = (found.pixels[:, 1, :, 0] < 10) & free.valid[:, 2]
    assert torch.equal(found.valid[:, 2], shown & found.valid[:, 1]) and shown.any() and not shown.all()
    spoiled = motion.clone()
    spoiled[:, 1, 1, :, 10:] = torch.nan
    broken = lift_4d(depth, spoiled, camera, visible=torch.ones_like(visible), backend=backend)
    assert broken.points.isfinite().all() and not broken.valid[:, 2][broken.pixels[:, 1, :, 0] > 10.5].any()
    assert torch.equal(broken.valid[:, :2], free.valid[:, :2])


def test_colours_instances_and_world_axes_belong_to_the_start() -> None:
    depth, motion, camera = slanted_plane()
    rgb, instance = torch.rand(1, 3, FRAMES, HEIGHT, WIDTH), torch.ones_like(depth, dtype=torch.uint8)
    instance[..., : WIDTH // 2] = 2
    pose = torch.eye(4, dtype=torch.float64).repeat(1, FRAMES, 1, 1)
    pose[..., :3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    pose[..., :3, 3] = torch.tensor([1.0, 2, 3])
    found = lift_4d(depth, motion, camera, rgb=rgb, camera_to_world=pose, start=1)
    plain = lift_4d(depth, motion, camera, start=1)
    assert found.rgb is not None and torch.equal(found.rgb.transpose(1, 2), rgb[:, :, 1].flatten(-2))
    x, y, z = (plain.points - plain.points * ~plain.valid[..., None]).unbind(-1)
    expected = torch.stack((z + 1, 2 - x, 3 - y), -1)
    torch.testing.assert_close(found.points[plain.valid], expected[plain.valid])
    assert plain.rgb is None and plain.instance is None
    other = lift_4d(depth, motion, camera, instance=instance)
    assert other.instance is not None and torch.equal(other.instance[0], instance[0, 0].flatten())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("instances", [False, True])
def test_gradients_are_those_of_the_points(instances: bool, backend: str) -> None:
    generator = torch.Generator().manual_seed(2)
    depth = 2 + 0.05 * torch.rand(1, 3, 3, 4, generator=generator, dtype=torch.float64)
    motion = 0.1 + 0.2 * torch.rand(1, 3, 2, 3, 4, generator=generator, dtype=torch.float64)
    motion[:, 2] *= 0.05
    instance = torch.randint(0, 2, depth.shape, generator=generator) if instances else None
    visible, camera = torch.ones(1, 2, 3, 4, dtype=torch.bool), intrinsics(3, 3, 4)

    def lifted(depth: Tensor, motion: Tensor) -> Trajectories:
        return lift_4d(depth, motion, camera, instance=instance, visible=visible, tolerance=0.3, backend=backend)

    assert lifted(depth, motion).valid[:, -1].sum() >= 3
    assert torch.autograd.gradcheck(lambda *x: lifted(*x)[:2], (depth.requires_grad_(), motion.requires_grad_()))


@pytest.mark.skipif(not native.status()[0], reason=native.status()[1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_code_follows_the_definition_on_any_number_of_threads(dtype: torch.dtype) -> None:
    depth, motion, camera = (t.to(dtype) for t in passing())
    depth, motion = (t.repeat_interleave(20, -2).requires_grad_() for t in (depth, motion))
    threads, found = torch.get_num_threads(), []

    def lifted(backend: Literal["native", "reference"]) -> list[Tensor]:
        made = lift_4d(depth, motion, camera, backend=backend)
        return [t.detach() for t in (*made[:3], *torch.autograd.grad(made.points.square().sum(), (depth, motion)))]

    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(lifted("native"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    true = lifted("reference")
    assert torch.equal(found[0][2], true[2])
    for mine, other in zip(found[0], true, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_masked_reaches_neither_points_nor_gradients(backend: str) -> None:
    depth, motion, camera = slanted_plane()
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[..., 5:9, 7:11] = False
    clean = depth.clone().requires_grad_(), motion.clone().requires_grad_()
    spoiled = depth.masked_fill(~valid, torch.nan), motion.masked_fill(~valid[:, None, 1:], torch.nan)
    first = lift_4d(*clean, camera, valid=valid & (spoiled[0] > 0), backend=backend)
    second = lift_4d(*(t.requires_grad_() for t in spoiled), camera, valid=valid, backend=backend)
    assert second.points.isfinite().all() and second.valid.double().mean() > 0.6
    assert same(first, second)
    for mine, other in zip(
        torch.autograd.grad(second.points.sum(), spoiled), torch.autograd.grad(first.points.sum(), clean), strict=True
    ):
        assert torch.equal(mine, other) and mine.any()


def test_compiles_into_one_graph() -> None:
    depth, motion, camera = passing()
    compiled = torch.compile(lambda *x: lift_4d(*x, camera), fullgraph=True, backend="aot_eager")
    assert same(compiled(depth, motion), lift_4d(depth, motion, camera))


def test_empty_clips_and_single_frames() -> None:
    for clips, frames, height, width in ((0, 3, 4, 5), (1, 1, 4, 5), (1, 3, 1, 1)):
        depth = torch.ones(clips, frames, height, width)
        motion = torch.zeros(clips, 3, frames - 1, height, width)
        found = lift_4d(depth, motion, intrinsics(frames, height, width).expand(clips, -1, -1, -1))
        assert found.points.shape == (clips, frames, height * width, 3) and found.valid.all()


def test_wrong_arguments_are_named() -> None:
    depth, motion, camera = slanted_plane()
    with pytest.raises(ValueError, match="start: expected a frame from 0 to 4, got 5"):
        lift_4d(depth, motion, camera, start=5)
    with pytest.raises(ValueError, match="instance: expected integers, got float64"):
        lift_4d(depth, motion, camera, instance=depth)
    with pytest.raises(ValueError, match=r"visible: expected shape \[1, 4, 20, 24\]"):
        lift_4d(depth, motion, camera, visible=depth > 0)
    with pytest.raises(ValueError, match=r"rgb: expected shape \[1, 3, 5, 20, 24\]"):
        lift_4d(depth, motion, camera, rgb=depth[:, None])
