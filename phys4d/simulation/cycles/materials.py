"""Physically based materials: how the surface that a texture draws reflects, refracts and emits light."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from phys4d.simulation.mesh_sequence import Texture

GLOW_GAIN = 4.0  # light on other things over what the camera sees of a glowing one, as `rendering.lamps.GAIN`


@dataclass(frozen=True)
class Surface:
    """Inputs of a principled surface.

    pattern: name of the texture, whose pattern colours it.
    roughness, metallic: 0 to 1.
    ior: index of refraction; of an opaque surface it decides how strongly it mirrors.
    transmission: share of the light that enters and is refracted, 0 to 1.
    subsurface: share of the light that is scattered below the surface, 0 to 1.
    sheen: of fabrics, 0 to 1.
    glow: light that it sends out, over its colour; 0 for none.
    """

    pattern: str
    roughness: float = 0.6
    metallic: float = 0.0
    ior: float = 1.45
    transmission: float = 0.0
    subsurface: float = 0.0
    sheen: float = 0.0
    glow: float = 0.0

    def numbers(self) -> dict[str, Any]:
        """The inputs by name."""
        return asdict(self)


def _surface(texture: Texture) -> Surface:
    name = texture.name
    return {
        Texture.METAL: Surface(name, roughness=0.22, metallic=1.0, ior=2.5),
        Texture.BANDS: Surface(name, roughness=0.55, ior=1.52),
        Texture.GRAIN: Surface(name, roughness=0.5),
        Texture.SPECKLE: Surface(name, roughness=0.95, ior=1.3),
        Texture.MARBLE: Surface(name, roughness=0.12, ior=1.5),
        Texture.DOTS: Surface(name, roughness=0.2),
        Texture.PLANKS: Surface(name, roughness=0.45),
        Texture.TILES: Surface(name, roughness=0.18, ior=1.5),
        Texture.CONCRETE: Surface(name, roughness=0.85),
        Texture.CARPET: Surface(name, roughness=1.0, ior=1.3, sheen=0.3),
        Texture.BRICK: Surface(name, roughness=0.9),
        Texture.PLASTER: Surface(name, roughness=0.9),
        Texture.WEAVE: Surface(name, roughness=0.85, ior=1.35, sheen=0.3),
        Texture.KNIT: Surface(name, roughness=1.0, ior=1.3, sheen=0.5),
        Texture.FOAM: Surface(name, roughness=0.9, ior=1.3),
        Texture.TWIST: Surface(name, roughness=0.9, ior=1.35),
        Texture.JELLY: Surface(name, roughness=0.08, ior=1.35, subsurface=0.5),
        Texture.LATEX: Surface(name, roughness=0.12, ior=1.52),
        Texture.GRIT: Surface(name, roughness=0.95),
        Texture.WATER: Surface(name, roughness=0.1, ior=1.4),
        Texture.GLOW: Surface(name, roughness=0.7, glow=GLOW_GAIN),
    }.get(texture, Surface(name))


# Substances that light passes through, with their index of refraction; the caption names them.
CLEAR = {"water": 1.33, "green tea": 1.33, "red wine": 1.34, "honey": 1.49}


def surface_of(texture: Texture, name: str) -> Surface:
    """The surface of an instance.

    texture: of its vertices.
    name: of the instance in the clip's json, such as "red steel ball" or "honey".
    """
    surface = _surface(texture)
    if texture == Texture.WATER:
        for substance, ior in CLEAR.items():
            if re.search(rf"\b{substance}\b", name):
                return Surface(surface.pattern, roughness=0.02, ior=ior, transmission=1.0)
    return surface
