"""The meshes of rigid bodies and their rods, moved along the bodies' tracks."""


from phys4d.simulation import shapes
from phys4d.simulation.assembly import Part, assemble
from phys4d.simulation.body import Rod
from phys4d.simulation.mesh_sequence import MeshSequence, Texture, Track
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.scene import FIRST_BODY
from phys4d.simulation.stage.materials import MATERIALS


def meshes(scene: RigidBodies, tracks: dict[int, Track], detail: int = 3) -> MeshSequence:
    """The scene as a mesh sequence: instance 1 is the floor, 2 the wall, 3... the bodies, then rods, then props."""
    frames = len(next(iter(tracks.values())).position)
    parts = []
    for number, body in enumerate(scene.bodies):
        instance = FIRST_BODY + number
        rest, faces = shapes.mesh(body.shape, body.size, detail)
        texture, track = MATERIALS[body.material].texture, tracks[instance]
        parts.append(Part(track.apply(rest), faces, rest, instance, body.rgb, texture, track))
    for number, instance in scene.rod_instances.items():
        rod = scene.bodies[number].rod
        assert rod is not None
        rest, faces = shapes.mesh("cylinder", (rod.radius, rod.length / 2), detail)
        track = _along(rod, tracks[FIRST_BODY + number])
        parts.append(Part(track.apply(rest), faces, rest, instance, rod.rgb, Texture.PLAIN, track))
    return assemble(scene, parts, frames, detail)


def _along(rod: Rod, body: Track) -> Track:
    """The pose of the rod's middle, half its length from the body's centre along the body's z axis."""
    return Track(body.position + rod.length / 2 * body.rotation()[:, :, 2], body.quaternion)
