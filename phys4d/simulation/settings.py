"""Settings of a simulated dataset."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from phys4d.engine.config import Config
from phys4d.engine.data.clip import video
from phys4d.simulation.assets import Library, read_library
from phys4d.simulation.categories import CATEGORIES, FAMILIES
from phys4d.simulation.rejection_sampling import CameraMotion, Clutter, Lens, Looks
from phys4d.simulation.truth.extras import Extra

STEPS_PER_SECOND = 1200  # of the simulators; every frame is a whole number of steps


class SimulateConfig(Config):
    """Settings of a simulated dataset; all are global, the same on every machine.

    categories: categories of physics; clip i takes the next category, and within it the next family, in turn.
    families: if not empty, only these families, in turn; `categories` is then ignored.
    clips: number of clips.
    size: (height, width), pixels.
    frames: frames of a clip.
    fps: frames per second; must divide STEPS_PER_SECOND.
    seed: seed of all random choices.
    truth: store depth, motion, masks and instances; False stores the video only.
    extras: further truth that is stored, names of `truth.extras`; what is left out has the same bytes as without.
    camera: "static", or "moving" along a path that the caption states.
    looks: "varied" samples floors, walls, lights and soft shadows; "plain" is a checkered floor, a bare wall and one
        white light with sharp shadows.
    lens: "varied" samples fields of view from 30 to 70 degrees across the smaller side; "fixed" is one of 45.
    clutter: "varied": up to three pieces of furniture and the like stand fixed behind the event, and the caption names
        them; "half": so in half of the clips, or "none".
    assets: folder with meshes of the user, see `assets`: half of the furniture, and what falls in the family `fall`.
    renderer: "raster", by OpenGL, or "cycles", Blender's path tracer, in a Python that has bpy; truth is the same.
    samples: paths of light in each pixel that Cycles follows.
    cycles_python: the Python that has bpy; None for the running one.
    pixel_format: chroma format of the mp4, see `engine.data.clip.video.encode_mp4`.
    on_refused: "stop" at a clip of which no sample is usable, or "skip" it and count it; the others keep their bytes.
    """

    categories: tuple[str, ...] = Field(("rigid",), min_length=1)
    families: tuple[str, ...] = ()
    clips: int = Field(100, ge=1)
    size: tuple[int, int] = (48, 48)
    frames: int = Field(17, ge=2)
    fps: int = Field(24, ge=1)
    seed: int = Field(0, ge=0)
    truth: bool = True
    extras: tuple[Extra, ...] = ()
    camera: CameraMotion = "static"
    looks: Looks = "varied"
    lens: Lens = "varied"
    clutter: Clutter = "half"
    assets: Path | None = None
    renderer: Literal["raster", "cycles"] = "raster"
    samples: int = Field(16, ge=1, le=65536)
    cycles_python: Path | None = None
    pixel_format: video.PixelFormat = "yuv444p"
    on_refused: Literal["stop", "skip"] = "stop"

    @field_validator("fps")
    @classmethod
    def _whole_steps(cls, fps: int) -> int:
        if STEPS_PER_SECOND % fps:
            raise ValueError(f"expected a divisor of {STEPS_PER_SECOND}, the simulator's steps per second")
        return fps

    @field_validator("extras")
    @classmethod
    def _of_truth(cls, names: tuple[Extra, ...], field: ValidationInfo) -> tuple[Extra, ...]:
        if names and not field.data.get("truth", True):
            raise ValueError("expected none, since the clips are to have no truth")
        return names

    @field_validator("pixel_format")
    @classmethod
    def _even_sides(cls, name: video.PixelFormat, field: ValidationInfo) -> video.PixelFormat:
        return video.checked_pixel_format(name, field.data["size"]) if "size" in field.data else name

    @field_validator("categories", "families")
    @classmethod
    def _known(cls, names: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        known = CATEGORIES if field.field_name == "categories" else FAMILIES
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r}: expected some of {', '.join(known)}")
        return names

    def library(self) -> Library | None:
        """The meshes of the user, None without; raises UserError if they are unusable."""
        return None if self.assets is None else read_library(self.assets, closed=self.clutter == "none")

    def family(self, index: int) -> str:
        """The family of clip number `index`."""
        if self.families:
            return self.families[index % len(self.families)]
        turn, which = divmod(index, len(self.categories))
        families = list(CATEGORIES[self.categories[which]])
        return families[turn % len(families)]
