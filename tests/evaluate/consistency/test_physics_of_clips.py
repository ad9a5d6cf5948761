"""Free fall, collisions and penetration by hand; centres from tracks; tracks and visibility by the simulator."""

import math

import numpy as np
import pytest
import torch

from phys4d.evaluate.consistency.physics import (
    LEAST_POINTS,
    Centres,
    RigidBody,
    centres,
    collision,
    fall_acceleration,
    penetration,
)
from phys4d.evaluate.consistency.rigid import bodies_of
from phys4d.evaluate.consistency.tracks import seen, simulated
from phys4d.simulation.mesh_sequence import Track

FPS, GRAVITY = 20.0, 10.0


def along(*z: float) -> np.ndarray:
    """Positions [T, 3] at these heights."""
    return np.array([[0.5, 0, height] for height in z])


def known(position: np.ndarray, *unknown: int) -> Centres:
    flags = np.ones(len(position), dtype=bool)
    flags[list(unknown)] = False
    return Centres(position, flags)


def fall(gravity: float, frames: int = 8) -> np.ndarray:
    """A fall from rest at 5 m, with two frames of standing before it."""
    time = np.maximum(np.arange(-2, frames) / FPS, 0)
    return along(*(5 - gravity / 2 * time**2))


def test_acceleration_of_a_fall_is_that_of_the_generated_parabola() -> None:
    body = RigidBody(fall(GRAVITY), 1.0, 0.1)
    for gravity in (0.0, 5.0, 10.0, 20.0):
        found = fall_acceleration(body, known(fall(gravity)), FPS, GRAVITY)
        assert found == pytest.approx([0, 0, -gravity], abs=1e-9)
    gaps = known(fall(7.0), 4, 6)
    assert fall_acceleration(body, gaps, FPS, GRAVITY) == pytest.approx([0, 0, -7.0])
    assert fall_acceleration(body, known(fall(7.0), *range(5, 10)), FPS, GRAVITY) is None  # three of the fall are left
    assert fall_acceleration(RigidBody(fall(0.0), 1.0, 0.1), known(fall(9.0)), FPS, GRAVITY) is None


def test_a_bounce_does_not_belong_to_the_fall() -> None:
    """True: 6 frames down, then at rest. The read one differs only behind the impact."""
    down = fall(GRAVITY, 6)
    true = np.concatenate([down, np.repeat(down[-1:], 4, axis=0)])
    read = true.copy()
    read[len(down) :] += 3
    assert fall_acceleration(RigidBody(true, 1, 0.1), known(read), FPS, GRAVITY) == pytest.approx([0, 0, -GRAVITY])


def shock(before: float, after: float, start: float, frames: int = 9) -> np.ndarray:
    """Positions [T, 3] along the floor: velocity before and after frame 4, m/s."""
    x = [start + (before * min(t, 4) + after * max(t - 4, 0)) / FPS for t in range(frames)]
    return np.stack([x, np.zeros(frames), np.full(frames, 0.1)], axis=1)


def test_a_collision_is_scored_by_both_changes_of_momentum() -> None:
    """1 kg at 4 m/s stops at 2 kg at rest, which leaves at 2 m/s: 4 kg m/s change hands."""
    bodies = [RigidBody(shock(4, 0, 0), 1, 0.1), RigidBody(shock(0, 2, 1), 2, 0.1)]

    def score(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
        found = collision(bodies, [known(shock(*first, 0)), known(shock(*second, 1))], FPS, GRAVITY)
        assert found is not None
        return found.momentum, found.impulse

    assert score((4, 0), (0, 2)) == pytest.approx((0, 0), abs=1e-9)
    assert score((4, 4), (0, 0)) == pytest.approx((0, 1))  # they pass through each other: nothing is lost
    assert score((4, 0), (0, 0)) == pytest.approx((0.5, 0.5))  # 4 of 8 kg m/s vanish
    assert score((4, -4), (0, 4)) == pytest.approx((0, 1))  # twice the impulse
    assert score((8, 4), (1, 3)) == pytest.approx((0, 0), abs=1e-9)  # changes count, not velocities


def test_no_collision_no_score() -> None:
    apart = [RigidBody(shock(4, 4, 0), 1, 0.1), RigidBody(shock(0, 0, 1), 2, 0.1)]
    read = [known(body.position) for body in apart]
    assert collision(apart, read, FPS, GRAVITY) is None
    falling = [RigidBody(fall(GRAVITY), 1, 0.1), RigidBody(fall(GRAVITY) + 1, 2, 0.1)]
    assert collision(falling, [known(body.position) for body in falling], FPS, GRAVITY) is None
    hit = [RigidBody(shock(4, 0, 0), 1, 0.1), RigidBody(shock(0, 2, 1), 2, 0.1)]
    assert collision(hit[:1], read[:1], FPS, GRAVITY) is None
    assert collision(hit, [known(hit[0].position), known(hit[1].position, 7)], FPS, GRAVITY) is None
    assert collision(hit, [known(hit[0].position), known(hit[1].position, 8)], FPS, GRAVITY) is not None


def test_penetration_is_the_deepest_overlap_beyond_the_true_one() -> None:
    high, low = along(1.0, 1.0), along(0.3, 0.25)
    bodies = [RigidBody(high, 1, 0.2), RigidBody(low, 1, 0.3)]  # the truth is 0.05 m in the floor in frame 1
    assert penetration(bodies, [known(high), known(low)]) == 0
    assert penetration(bodies, [known(high), known(along(0.2, 0.2))]) == pytest.approx((0.1 + 0.05) / 2)
    assert penetration(bodies, [known(along(0.6, 0.6)), known(low)]) == pytest.approx((0.2 + 0.15) / 2)
    assert penetration(bodies, [known(along(0.1, 0.6)), known(low)]) == pytest.approx((0.3 + 0.15) / 2)
    assert penetration(bodies, [known(high, 0), known(along(0.2, 0.2), 0)]) == pytest.approx(0.05)
    assert penetration(bodies, [known(high, 0, 1), known(low, 0, 1)]) is None
    assert penetration([], []) is None


def test_a_centre_moves_rigidly_with_its_surface() -> None:
    random = torch.Generator().manual_seed(0)
    surface = torch.randn(20, 3, generator=random, dtype=torch.float64)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).double()
    points = torch.stack([surface, surface @ turn.mT + torch.tensor([1.0, 2, 3])])
    valid = torch.ones(2, 20, dtype=torch.bool)
    start = np.array([0.5, 0, 0])
    found = centres(points, valid, start)
    assert found.position[0] == pytest.approx(start) and found.position[1] == pytest.approx([1, 2.5, 3])
    valid[1, LEAST_POINTS - 1 :] = False
    points[1, LEAST_POINTS - 1 :] = 99
    few = centres(points, valid, start)
    assert few.known.tolist() == [True, False]
    valid[1, LEAST_POINTS - 1] = True
    points[1, LEAST_POINTS - 1] = (surface @ turn.mT + torch.tensor([1.0, 2, 3]))[LEAST_POINTS - 1]
    enough = centres(points, valid, start)
    assert enough.known.all() and enough.position[1] == pytest.approx([1, 2.5, 3])


def test_points_move_with_the_poses_of_their_instance() -> None:
    half = math.sqrt(0.5)
    track = Track(np.array([[1.0, 0, 0], [1, 0, 2]]), np.array([[half, 0, 0, half], [1.0, 0, 0, 0]]))
    start = torch.tensor([[2.0, 0, 0], [5, 5, 5], [7, 7, 7]])
    points, known_points = simulated(start, torch.tensor([3, 1, 9]), {3: track}, [1])
    assert known_points.tolist() == [True, True, False]
    torch.testing.assert_close(points[0], start, check_dtype=False)  # a rotation there and back
    assert points[1, 0].tolist() == pytest.approx([1, -1, 2])  # a quarter turn back about z, and 2 m up
    assert points[1, 1:].tolist() == start[1:].tolist()
    assert simulated(start, torch.tensor([3, 1, 9]), {}, [1])[0].shape == (1, 3, 3)


def test_a_point_is_seen_where_its_pixel_shows_its_own_surface() -> None:
    """A camera of 4 x 4 pixels and focal length 4: u = 4 x / z + 2."""
    intrinsics = torch.tensor([[[4.0, 0, 2], [0, 4, 2], [0, 0, 1]]])
    depth, instances = torch.full((1, 4, 4), 2.0), torch.ones(1, 4, 4, dtype=torch.int64)
    instances[0, 0, 3] = 2
    points = torch.tensor([[[-0.9, -0.9, 2.0], [-0.9, -0.9, 2.2], [0.9, -0.9, 2.0], [1.1, 0, 2.0], [0, 0, -2.0]]])
    visible = seen(points, torch.ones(5, dtype=torch.int64), intrinsics, depth, instances)
    # seen; behind the surface; another instance; outside; behind the camera
    assert visible.tolist() == [[True, False, False, False, False]]
    assert seen(points[:, 2:3], torch.tensor([2]), intrinsics, depth, instances).all()


def test_bodies_are_those_with_mass_pose_and_a_known_shape() -> None:
    track = {"position": [[0, 0, 1]] * 2, "quaternion": [[1, 0, 0, 0]] * 2}
    ball = {"instance": 3, "shape": "ball", "size": [0.2], "mass": 4.0}
    capsule = {"instance": 6, "shape": "capsule", "size": [0.3, 0.1], "mass": 1.0}
    others = [
        {"instance": 1, "shape": "plane", "size": [], "mass": None},
        {"instance": 4, "shape": "cloth", "size": [1, 1], "mass": 1.0},
        {"instance": 5, "shape": "box", "size": [1, 2, 3], "mass": 1.0},
    ]
    meta = {"objects": [ball, capsule, *others], "tracks": {"3": track, "4": track, "6": track}}
    found = bodies_of(meta)
    assert list(found) == [3, 6] and (found[3].mass, found[3].radius, found[6].radius) == (4.0, 0.2, 0.3)
    assert bodies_of({}) == {}
