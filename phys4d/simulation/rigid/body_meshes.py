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
    parts = [body_mesh(scene, number, tracks, detail) for number in range(len(scene.all_bodies))]
    for number, instance in scene.rod_instances.items():
        rod = scene.all_bodies[number].rod
        assert rod is not None
        rest, faces = shapes.mesh("cylinder", (rod.radius, rod.length / 2), detail)
        track = along_rod(rod, tracks[FIRST_BODY + number])
        parts.append(InstanceMesh(track.apply(rest), faces, rest, instance, rod.rgb, Texture.PLAIN, track))
    return assemble(scene, parts, frames, detail)


def body_mesh(scene: RigidBodies, number: int, tracks: dict[int, Track], detail: int) -> InstanceMesh:
    """The mesh of one body over time.

    scene: the bodies.
    number: index in `all_bodies`.
    tracks: instance -> pose over time.
    detail: subdivision level, see `shapes.mesh`.
    """
    body, instance = scene.all_bodies[number], FIRST_BODY + number
    rest, faces = body.mesh(detail)
    track = tracks[instance]
    texture = MATERIALS[body.material].texture
    return InstanceMesh(track.apply(rest), faces, rest, instance, body.rgb, texture, track)


def later_meshes(scene: RigidBodies, tracks: dict[int, Track], detail: int) -> list[InstanceMesh]:
    """The meshes of the bodies of later events; parameters as for `body_mesh`."""
    return [body_mesh(scene, len(scene.bodies) + n, tracks, detail) for n in range(len(scene.later))]


def along_rod(rod: Rod, body: Track) -> Track:
    """Pose of the rod's middle: half of its length from the body's centre along the body's z axis."""
    return Track(body.position + rod.length / 2 * body.rotation()[:, :, 2], body.quaternion)
