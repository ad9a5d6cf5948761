"""A MuJoCo scene whose ropes are drawn as tubes."""

from dataclasses import dataclass

from phys4d.simulation.rope.tube import tube
from phys4d.simulation.world.play import Play
from phys4d.simulation.world.scene import WorldScene
from phys4d.simulation.world.thing import Surface, Thing


@dataclass(frozen=True, kw_only=True)
class RopeScene(WorldScene):
    """ropes: names of the things that are ropes; their geoms are the links in order."""

    ropes: tuple[str, ...]

    def surface(self, thing: Thing, played: Play, detail: int) -> Surface:
        """See `WorldScene.surface`."""
        if thing.name not in self.ropes:
            return super().surface(thing, played, detail)
        radius, half = (float(length) for length in played.model.geom(thing.geoms[0]).size[:2])
        return tube([played.geoms[name] for name in thing.geoms], radius, half, detail)
