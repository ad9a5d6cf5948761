"""phys4d.json: what a model folder of this project says of itself."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from phys4d.engine import json_text
from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.engine.limits import FRAMES, WIDTH
from phys4d.models.config import ResolvedConfig
from phys4d.models.shipped import PREFIX, opened

CARD = "phys4d.json"


class Card(Config):
    """The contents of phys4d.json.

    format: version of this file. stage: that wrote the model. model: its configuration. frames, height, width: of its
    clips, in frames and pixels. adapters: names of the LoRA folders, oldest first. base: the folder that holds the
    backbone; None for this one. provenance: versions, revision, date and machine of the run.
    """

    format: int
    stage: str
    model: ResolvedConfig
    frames: int = Field(ge=1, le=FRAMES)
    height: int = Field(ge=1, le=WIDTH)
    width: int = Field(ge=1, le=WIDTH)
    adapters: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")], ...] = Field(max_length=16)
    base: str | None
    provenance: dict[str, object]

    @property
    def size(self) -> tuple[int, int, int]:
        """(frames, height, width) of the clips."""
        return self.frames, self.height, self.width


def read_card(folder: Path) -> Card:
    """The validated phys4d.json of a model folder, or UserError."""
    path = folder / CARD
    if not path.is_file():
        raise UserError(f"{path}: no such file: name a model folder written by a stage (it holds {CARD})")
    try:
        return Card.model_validate(json_text.loads(json_text.read(path)), strict=False)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: {key}: {fault['msg']}: this file is not of this version of phys4d") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}: this file is damaged") from None


def _base(folder: Path, base: str) -> Path:
    return opened(Path(base)) if base.startswith(PREFIX) else (folder / base).resolve()


def base_of(card: Card, folder: Path) -> Path:
    """The folder that holds the backbone, or UserError where it was moved or removed."""
    try:
        base = folder if card.base is None else _base(folder, card.base)
        config = base / "transformer" / "config.json"
        found = config.is_file()
    except (ValueError, OSError, RuntimeError) as error:  # a character 0, a name that is too long, links in a circle
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{folder / CARD}: base: is no path ({reason}): this file is damaged") from None
    if not found:
        raise UserError(f"{config}: no such file: the folder that holds the backbone was moved or removed")
    return base
