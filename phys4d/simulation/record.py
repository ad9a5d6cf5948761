"""What a clip's json says about it: caption, camera, objects and their tracks."""

from typing import Any

from phys4d.simulation.camera import Camera
from phys4d.simulation.caption import caption
from phys4d.simulation.materials import FLOOR_FRICTION
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scene import FIRST_BODY, FLOOR, WALL, Body, Prop, Scene


def description(scene: Scene, meshes: MeshSequence, camera: Camera, fps: float) -> dict[str, Any]:
    """The json of a clip without its provenance; metres, kg, m/s and rad/s."""
    return {
        "caption": caption(scene),
        "category": "rigid",
        "family": scene.family,
        "depth_kind": "metric",
        "fps": fps,
        "frames": meshes.frames,
        "height": camera.height,
        "width": camera.width,
        "intrinsics": camera.intrinsics.tolist(),
        "camera_to_world": camera.camera_to_world.tolist(),
        "objects": [
            _still("floor", FLOOR, scene.room.floor),
            _still("wall", WALL, scene.room.wall),
            *(_moving(scene, body, FIRST_BODY + number) for number, body in enumerate(scene.bodies)),
            *(_rod(scene, number, instance) for number, instance in scene.rod_instances.items()),
            *(_prop(prop, i) for prop, i in zip(scene.props, scene.prop_instances, strict=True)),
        ],
        "tracks": {
            str(instance): {"position": track.position.tolist(), "quaternion": track.quaternion.tolist()}
            for instance, track in meshes.tracks.items()
        },
    }


def _still(name: str, instance: int, rgb: tuple[float, float, float]) -> dict[str, Any]:
    """Floor, wall and props bounce as the body that meets them says: restitution 1 is neutral; they have no mass."""
    return {
        "instance": instance,
        "name": name,
        "shape": "plane",
        "colour": list(rgb),
        "size": [],
        "mass": None,
        "friction": FLOOR_FRICTION,
        "restitution": 1.0,
        "dynamic": False,
    }


def _moving(scene: Scene, body: Body, instance: int) -> dict[str, Any]:
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
        "restitution": body.restitution,
        "dynamic": True,
        "linear_velocity": linear.tolist(),
        "angular_velocity": angular.tolist(),
    }


def _rod(scene: Scene, number: int, instance: int) -> dict[str, Any]:
    """A rod is a part of the body on it, turns with it about its pivot, and weighs nothing."""
    body = scene.bodies[number]
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


def _prop(prop: Prop, instance: int) -> dict[str, Any]:
    still = _still(prop.name, instance, prop.rgb)
    place = {"position": list(prop.position), "quaternion": list(prop.quaternion)}
    return still | {"shape": prop.shape, "size": list(prop.size), "friction": prop.friction} | place
