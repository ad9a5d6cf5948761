"""Meshes of rigid bodies and their rods, moved along the bodies' tracks."""


from phys4d.simulation import shapes
from phys4d.simulation.assembly import InstanceMesh, assemble
from phys4d.simulation.body import Rod
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, Track
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.scene import FIRST_BODY
from phys4d.simulation.scenery.materials import MATERIALS


def body_meshes(scene: RigidBodies, tracks: dict[int, Track], detail: int = 3) -> MeshSequence:
    """The mesh sequence of a rigid scene.

    Instances: 1 floor, 2 wall, 3... bodies, then rods, then props.

    scene: bodies, room and props.
    tracks: instance -> pose over time.
    detail: subdivision level, see `shapes.mesh`.
    """
    frames = len(next(iter(tracks.values())).position)
    parts = []
    for number, body in enumerate(scene.bodies):
        instance = FIRST_BODY + number
        rest, faces = shapes.mesh(body.shape, body.size, detail)
        texture, track = MATERIALS[body.material].texture, tracks[instance]
        parts.append(InstanceMesh(track.apply(rest), faces, rest, instance, body.rgb, texture, track))
    for number, instance in scene.rod_instances.items():
        rod = scene.bodies[number].rod
        assert rod is not None
        rest, faces = shapes.mesh("cylinder", (rod.radius, rod.length / 2), detail)
        track = _along(rod, tracks[FIRST_BODY + number])
        parts.append(InstanceMesh(track.apply(rest), faces, rest, instance, rod.rgb, Texture.PLAIN, track))
    return assemble(scene, parts, frames, detail)


def _along(rod: Rod, body: Track) -> Track:
    """Pose of the rod's middle: half of its length from the body's centre along the body's z axis."""
    return Track(body.position + rod.length / 2 * body.rotation()[:, :, 2], body.quaternion)
