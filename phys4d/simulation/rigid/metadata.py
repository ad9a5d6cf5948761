"""Json entries of rigid bodies and their rods."""

from typing import Any

from phys4d.simulation.body import Body
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.scene import FIRST_BODY


def objects(scene: RigidBodies) -> list[dict[str, Any]]:
    """The bodies, then their rods; metres, kg, m/s and rad/s."""
    return [
        *(_moving(scene, body, FIRST_BODY + number) for number, body in enumerate(scene.all_bodies)),
        *(_rod(scene, number, instance) for number, instance in scene.rod_instances.items()),
    ]


def _moving(scene: RigidBodies, body: Body, instance: int) -> dict[str, Any]:
    linear, angular = scene.world_velocity(body)
    return {
        "instance": instance,
        "name": body.name,
        "shape": body.shape,
        "material": body.material,
        "colour": list(body.rgb),
        "size": list(body.size),
        "mass": body.mass,
        "friction": body.friction,
        "rolling_friction": body.rolling_friction,
        "restitution": body.restitution,
        "dynamic": True,
        "linear_velocity": linear.tolist(),
        "angular_velocity": angular.tolist(),
        **({} if body.asset is None else {"asset": body.asset.about}),
    }


def _rod(scene: RigidBodies, number: int, instance: int) -> dict[str, Any]:
    """A rod is part of its body: it rotates with the body about the pivot and has no mass."""
    body = scene.all_bodies[number]
    assert body.rod is not None
    linear, angular = scene.world_velocity(body)
    return {
        "instance": instance,
        "name": "rod",
        "part_of": FIRST_BODY + number,
        "shape": "cylinder",
        "colour": list(body.rod.rgb),
        "size": [body.rod.radius, body.rod.length / 2],
        "mass": 0.0,
        "friction": body.friction,
        "restitution": body.restitution,
        "dynamic": True,
        "linear_velocity": (linear / 2).tolist(),
        "angular_velocity": angular.tolist(),
        "pivot": body.pivot.tolist(),
        "axis": list(body.rod.axis),
    }
