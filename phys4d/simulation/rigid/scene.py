"""A scene of rigid bodies: drawn again until what its caption says is seen."""

from dataclasses import dataclass
from typing import Any

from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.rigid import record
from phys4d.simulation.rigid.bodies import RigidBodies
from phys4d.simulation.rigid.caption import sentence
from phys4d.simulation.rigid.dynamics import motion
from phys4d.simulation.rigid.parts import meshes
from phys4d.simulation.rigid.screening import badly_framed, fault
from phys4d.simulation.scene import Unusable


@dataclass(frozen=True, kw_only=True)
class RigidScene(RigidBodies):
    """Rigid bodies, moved by MuJoCo."""

    def sentence(self) -> str:
        """What the bodies do, with their first velocities."""
        return sentence(self)

    def badly_framed(self) -> bool:
        """A body reaches out of the first frame by more than a little."""
        return badly_framed(self)

    def perform(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.perform`."""
        tracks = motion(self, frames, fps)
        reason = fault(self, tracks, fps)
        if reason is not None:
            raise Unusable(reason)
        return meshes(self, tracks, detail)

    def objects(self) -> list[dict[str, Any]]:
        """The bodies, then their rods."""
        return record.objects(self)
