"""Storage error: half a step of the codes, in metres and pixels, for 48 x 48 clips."""

from typing import Literal

import numpy as np
import pytest

from phys4d.engine.data.clip import blob
from phys4d.simulation.clip import measure
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.rigid import FAMILIES
from phys4d.simulation.rigid.body_meshes import body_meshes

METRES = 2e-4  # depth, at most 5 m away
PIXELS = 2e-4
METRES_PER_FRAME = 1e-5


@pytest.mark.parametrize("motion", ["static", "moving"])
@pytest.mark.parametrize("family", FAMILIES)
def test_stored_truth_is_within_half_a_step_and_the_stated_bounds(
    family: str, motion: Literal["static", "moving"]
) -> None:
    found = sample_scene(SimulateConfig(families=(family,), seed=5, camera=motion), 0)
    scene, tracks = found.scene, found.meshes.tracks
    truth = measure(body_meshes(scene, tracks, detail=2), scene.view.camera(17, 48, 48, 24))
    data = blob.encode(truth.stored(), blob.QUANTISATION)
    back, entries = blob.decode(data), blob.header(data)
    float32 = 1e-6
    assert entries["depth"]["dtype"] == entries["motion"]["dtype"] == "uint16"
    depth_error = np.abs(back["depth"] - truth.depth)
    assert (depth_error <= blob.error_bound(entries["depth"], truth.depth) + float32).all()
    motion_error = np.abs(back["motion"] - truth.motion)
    assert (motion_error <= blob.error_bound(entries["motion"], truth.motion) + float32).all()
    assert truth.depth.max() < 5
    assert depth_error.max() <= METRES
    assert motion_error[:2].max() <= PIXELS
    assert motion_error[2].max() <= METRES_PER_FRAME
    still = truth.flow_valid & ~truth.moving & (np.abs(truth.motion).max(axis=0) < 1e-9)
    assert (still.mean() > 0.5 or motion == "moving") and (back["motion"][:, still] == 0).all()
    for name in ("depth_valid", "flow_valid", "dz_valid", "visible", "moving", "instance"):
        assert np.array_equal(back[name], getattr(truth, name))
