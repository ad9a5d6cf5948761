"""A scene of rigid bodies in MuJoCo."""

from dataclasses import dataclass
from typing import Any

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.rigid import metadata
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.rigid.body_meshes import body_meshes
from phys4d.simulation.rigid.caption import sentence
from phys4d.simulation.rigid.dynamics import simulate_tracks
from phys4d.simulation.rigid.screening import badly_framed, rejection_reason
from phys4d.simulation.scene import Unusable


@dataclass(frozen=True, kw_only=True)
class RigidScene(RigidBodies):
    """Rigid bodies moved by MuJoCo."""

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        return sentence(self)

    def badly_framed(self) -> bool:
        """Whether a body extends out of the first frame by more than a tolerance."""
        return badly_framed(self)

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        tracks = simulate_tracks(self, frames, fps)
        reason = rejection_reason(self, tracks, fps)
        if reason is not None:
            raise Unusable(reason)
        return body_meshes(self, tracks, detail)

    def objects(self) -> list[dict[str, Any]]:
        """The bodies, then their rods."""
        return metadata.objects(self)
