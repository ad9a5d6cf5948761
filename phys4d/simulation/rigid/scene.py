"""A scene of rigid bodies in MuJoCo."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phys4d.simulation import later
from phys4d.simulation.body import Shape
from phys4d.simulation.caption import WORDS, caption, words
from phys4d.simulation.mesh_sequence import MeshSequence, Track
from phys4d.simulation.mujoco_scenes.recording import Recording
from phys4d.simulation.rigid import metadata
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.rigid.body_meshes import along_rod, body_meshes
from phys4d.simulation.rigid.caption import sentence
from phys4d.simulation.rigid.dynamics import record, simulate_tracks
from phys4d.simulation.rigid.screening import badly_framed, rejection_reason
from phys4d.simulation.scene import FIRST_BODY, Unusable


@dataclass(frozen=True, kw_only=True)
class RigidScene(RigidBodies):
    """Rigid bodies moved by MuJoCo."""

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        return sentence(self)

    def badly_framed(self) -> bool:
        """Whether a body extends out of the first frame by more than a tolerance."""
        return badly_framed(self)

    def lasting(self, seconds: float, rng: np.random.Generator) -> "RigidScene":
        """See `Scene.lasting`."""
        scene, times = self, later.release_times(seconds, rng)
        frames = int(times[-1] * later.LOOK_AHEAD) + 1 if times else 0
        tracks = simulate_tracks(scene, frames, later.LOOK_AHEAD) if times else {}
        # The last one first: it has the most room, and it is the one that the end of the clip needs.
        for time in reversed(times):
            subject = tracks[FIRST_BODY].position[int(time * later.LOOK_AHEAD)]
            found = later.sample(rng, time, self.view, caption(scene), subject, scene._occupied(tracks))
            if found is None:
                continue
            more = replace(scene, later=(found[0], *scene.later), props=(*scene.props, found[1]))
            if words(caption(more)) > WORDS:
                continue
            try:
                tracks = simulate_tracks(more, frames, later.LOOK_AHEAD)
            except Unusable:
                continue  # it would hit a body that is still held
            scene = more
        return scene

    def _occupied(self, tracks: dict[int, Track]) -> later.Occupied:
        """Where the bodies and their rods are."""
        moving: list[tuple[Shape, tuple[float, ...], Track]] = []
        for number, body in enumerate(self.all_bodies):
            track = tracks[FIRST_BODY + number]
            moving.append((body.shape, body.size, track))
            if body.rod is not None:
                moving.append(("cylinder", (body.rod.radius, body.rod.length / 2), along_rod(body.rod, track)))
        return later.Occupied(later.solids_of(self.props), moving, np.empty((0, 3)))

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        tracks = simulate_tracks(self, frames, fps)
        reason = rejection_reason(self, until(tracks, self.event_frames(frames, fps)), fps)
        if reason is not None:
            raise Unusable(reason)
        return body_meshes(self, tracks, detail)

    def record(self, frames: int, fps: float) -> Recording:
        """See `Scene.record`."""
        return record(self, frames, fps)

    def objects(self) -> list[dict[str, Any]]:
        """The bodies, then their rods."""
        return metadata.objects(self)


def until(tracks: dict[int, Track], frames: int) -> dict[int, Track]:
    """The first frames of tracks by instance."""
    return {instance: Track(t.position[:frames], t.quaternion[:frames]) for instance, t in tracks.items()}
