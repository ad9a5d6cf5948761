"""The json of a clip: caption, camera, objects and their tracks."""

from typing import Any

from phys4d.simulation.body import Prop
from phys4d.simulation.caption import caption
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.scene import FIRST_BODY, FLOOR, WALL, Scene
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.scenery.materials import FLOOR_FRICTION


def clip_metadata(scene: Scene, meshes: MeshSequence, camera: Camera, fps: float) -> dict[str, Any]:
    """The json of a clip without its provenance; metres, kg, m/s and rad/s.

    scene: the sampled scene.
    meshes: its motion; gives frames and tracks.
    camera: its camera; gives image size, intrinsics and poses.
    fps: frames per second.
    """
    moving_objects = scene.objects()
    return {
        "caption": caption(scene),
        "category": scene.category,
        "family": scene.family,
        "physics": scene.parameters(),
        "depth_kind": "metric",
        "fps": fps,
        "frames": meshes.frames,
        "height": camera.height,
        "width": camera.width,
        "intrinsics": camera.intrinsics.tolist(),
        "camera_to_world": camera.camera_to_world.tolist(),
        "objects": [
            _static_object("floor", FLOOR, scene.room.floor),
            _static_object("wall", WALL, scene.room.wall),
            *moving_objects,
            *(_prop(prop, i) for i, prop in enumerate(scene.props, start=FIRST_BODY + len(moving_objects))),
        ],
        "tracks": {
            str(instance): {"position": track.position.tolist(), "quaternion": track.quaternion.tolist()}
            for instance, track in meshes.tracks.items()
        },
    }


def _static_object(name: str, instance: int, rgb: tuple[float, float, float]) -> dict[str, Any]:
    """Floor, wall and props: no mass; restitution 1 is neutral, since that of the other body is used in a contact."""
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


def _prop(prop: Prop, instance: int) -> dict[str, Any]:
    still = _static_object(prop.name, instance, prop.rgb)
    place = {"position": list(prop.position), "quaternion": list(prop.quaternion)}
    asset = {} if prop.asset is None else {"asset": prop.asset.about}
    return still | {"shape": prop.shape, "size": list(prop.size), "friction": prop.friction} | place | asset
