"""Occlusion and trajectories computed from depth and motion, against the simulator's tracks."""

from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from phys4d.kernels.geometry import lift_4d, occlusion_mask
from phys4d.simulation.clip import Truth, measure
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.rigid.body_meshes import body_meshes
from phys4d.simulation.scenery.camera import Camera

SIZE, FRAMES = 128, 9
SCENES = [(family, motion) for family in ("fall", "collision") for motion in ("static", "moving")]
Motion = Literal["static", "moving"]


@cache
def scene(family: str, motion: Motion) -> tuple[Truth, MeshSequence, Camera]:
    config = SimulateConfig(families=(family,), seed=5, frames=FRAMES, fps=24, camera=motion)
    found = sample_scene(config, 0)
    drawn, tracks = found.scene, found.meshes.tracks
    sequence, camera = body_meshes(drawn, tracks, detail=3), drawn.view.camera(FRAMES, SIZE, SIZE, 24)
    return measure(sequence, camera), sequence, camera


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)[None]


def moved_with_its_body(truth: Truth, sequence: MeshSequence, points: np.ndarray) -> np.ndarray:
    """World positions [T, N, 3] of the points [N, 3] seen in frame 0, each carried by its rigid body."""
    instance, carried = truth.instance[0].ravel(), np.repeat(points[None], FRAMES, 0)
    for body in np.unique(instance[instance > 0]):
        corners = sequence.vertices[:, np.unique(sequence.faces[sequence.instance == body])]
        centre = corners.mean(1)
        for t in range(FRAMES):
            u, _, v = np.linalg.svd((corners[t] - centre[t]).T @ (corners[0] - centre[0]))
            turn = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
            assert np.abs((corners[0] - centre[0]) @ turn.T - (corners[t] - centre[t])).max() < 1e-9  # it is rigid
            carried[t, instance == body] = (points[instance == body] - centre[0]) @ turn.T + centre[t]
    return carried


@pytest.mark.parametrize(("family", "motion"), SCENES)
def test_occlusion_is_what_the_simulator_sees(family: str, motion: Motion) -> None:
    """Measured: agreement 99.6 to 99.9 %; 92.6 to 97.7 % of what is hidden is found, 90.7 to 95.4 % of it rightly."""
    truth = scene(family, motion)[0]
    found = occlusion_mask(tensor(truth.depth), tensor(truth.motion))
    known, seen = tensor(truth.flow_valid), tensor(truth.visible)
    assert (found.visible == seen)[known].double().mean() > 0.993
    hidden = known & ~seen & ~found.outside
    right = (found.hidden & hidden).sum()
    assert hidden.sum() > 1000 and right > 0.88 * hidden.sum() and right > 0.84 * found.hidden.sum()
    assert not (found.outside & seen).any()


@pytest.mark.parametrize("given", ["instances", "nothing"])
@pytest.mark.parametrize(("family", "motion"), SCENES)
def test_points_of_rigid_bodies_move_as_the_bodies_do(family: str, motion: Motion, given: str) -> None:
    """Measured on what moved by more than 5 cm, of eight scenes of each family: median error 0 to 0.3 mm, 90 % below
    18 mm, 99 % below 60 mm with instances; without, where bodies touch, points go over from one to the other: 99 %
    below 176 mm with a static camera, 225 mm with a moving one.
    """
    truth, sequence, camera = scene(family, motion)
    instance = tensor(truth.instance) if given == "instances" else None
    found = lift_4d(
        tensor(truth.depth), tensor(truth.motion), tensor(camera.intrinsics), instance=instance,
        camera_to_world=tensor(camera.camera_to_world),
    )  # fmt: skip
    points, valid = found.points[0].numpy(), found.valid[0].numpy()
    carried = moved_with_its_body(truth, sequence, points[0])
    error = np.linalg.norm(points - carried, axis=-1)
    moving = valid & (np.linalg.norm(carried - carried[0], axis=-1) > 0.05)
    assert moving.sum() > 5000
    middle, most, nearly_all = np.quantile(error[moving], (0.5, 0.9, 0.99))
    assert middle < 5e-4 and most < 0.01 and nearly_all < (0.08 if given == "instances" else 0.25)
    assert np.quantile(error[valid & ~moving], 0.9) < 1e-3
    last = np.nonzero(moving[-1] & (truth.instance[0].ravel() == truth.instance[0].ravel()[moving[-1]][0]))[0][::7]
    before, after = (np.linalg.norm(p[last, None] - p[None, last], axis=-1) for p in (points[0], points[-1]))
    if given == "instances" or family == "fall":  # else points of bodies that touch may have gone over
        assert np.quantile(np.abs(after - before), 0.9) < 0.02


@pytest.mark.parametrize(("family", "motion"), SCENES)
def test_points_that_stay_in_sight_are_seldom_lost(family: str, motion: Motion) -> None:
    truth, _, camera = scene(family, motion)
    arguments = tensor(truth.depth), tensor(truth.motion), tensor(camera.intrinsics)
    found = lift_4d(*arguments, instance=tensor(truth.instance)).valid
    best = lift_4d(*arguments, instance=tensor(truth.instance), visible=tensor(truth.visible)).valid
    assert (found & best).sum() > 0.99 * best.sum() and (found & ~best).sum() < 0.01 * best.sum()
