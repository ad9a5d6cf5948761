"""Meshes of the user as the body that falls, in the family `fall`."""

from dataclasses import replace

import numpy as np

from phys4d.simulation.assets import Library
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import Scene
from phys4d.simulation.scenery import sampling

RADIUS = (0.15, 0.25)  # range in metres of the smallest ball around a body's centre of mass that contains it
MATERIALS = ("wood", "clay")  # they bounce little: a body that tumbles stays predictable


def with_asset_body(scene: Scene, library: Library, rng: np.random.Generator) -> Scene:
    """A scene of the family `fall` with a closed mesh in place of the body that falls; any other scene as it is.

    scene: as its family samples it. library: of the user; without a closed mesh the scene stays. rng: random generator.
    """
    if scene.family != "fall" or not library.bodies:
        return scene
    assert isinstance(scene, RigidScene)
    mesh = library.bodies[int(rng.integers(len(library.bodies)))]
    asset, old = mesh.in_range(mesh.radius, *RADIUS), scene.bodies[0]
    body = sampling.body(
        rng, "mesh", old.colour, asset.size, np.array(old.position), quaternion=np.array(old.quaternion),
        velocity=np.array(old.velocity), materials=MATERIALS,
    )  # fmt: skip
    return replace(scene, bodies=(replace(body, asset=asset), *scene.bodies[1:]))
