"""Optional truth of a clip, by the names that `simulate` takes."""

from collections.abc import Collection
from typing import Literal, get_args

import numpy as np

from phys4d.simulation.clip import Truth
from phys4d.simulation.mesh_sequence import MeshSequence, Track
from phys4d.simulation.scene import FIRST_BODY, Scene
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.backward import backward_flow
from phys4d.simulation.truth.boxes import boxes
from phys4d.simulation.truth.dynamics import contacts, velocities
from phys4d.simulation.truth.normals import normals
from phys4d.simulation.truth.point_tracks import point_tracks

Extra = Literal["tracks", "backward-flow", "normals", "boxes", "velocities", "contacts"]
NAMES: tuple[Extra, ...] = get_args(Extra)


def extra_truth(
    wanted: Collection[Extra], scene: Scene, meshes: MeshSequence, camera: Camera, truth: Truth, fps: float
) -> dict[str, np.ndarray]:
    """The arrays of the wanted extras; what `engine.data.clip.extras.EXTRAS` defines.

    wanted: some of NAMES. Contacts and velocities are those of MuJoCo; scenes that it does not run have none.
    scene, meshes, camera, truth: of the clip.
    fps: frames per second.
    """
    arrays: dict[str, np.ndarray] = {}
    if "tracks" in wanted:
        arrays |= point_tracks(meshes, camera, truth)
    if "backward-flow" in wanted:
        arrays |= backward_flow(meshes, camera, truth)
    if "normals" in wanted:
        arrays |= normals(meshes, camera, truth)
    if "boxes" in wanted:
        first = FIRST_BODY + len(scene.objects())
        still = {
            first + number: Track(np.array([prop.position]), np.array([prop.quaternion]))
            for number, prop in enumerate(scene.props)
        }
        arrays |= boxes(meshes, meshes.tracks | still)
    recorded = {"velocities", "contacts"} & set(wanted)
    if recorded and (recording := scene.record(meshes.frames, fps)) is not None:
        if "velocities" in wanted and meshes.tracks:
            arrays |= velocities(recording, meshes.tracks)
        if "contacts" in wanted:
            arrays |= contacts(recording)
    return arrays
