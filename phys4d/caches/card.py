"""cache.json: what the latents and tokens of a cache were computed from, and how they are stored."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from phys4d.engine import integrity, json_text
from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.engine.limits import FRAMES, WIDTH

CARD = "cache.json"
FORMAT = 2
"""Version of the files and of how a clip becomes latents: pixels / 127.5 - 1, one clip at a time."""
Size = Annotated[int, Field(ge=1, le=1 << 24)]
Dtype = Literal["fp32", "bf16"]
"""fp32: what was computed, to the bit. bf16: rounded, half the bytes."""


class BadClip(Config):
    """A clip that could not be encoded. source: as in the index; fault: why, without the folder."""

    source: str
    fault: str


class EncodedSize(Config):
    """What clips of one size become. frames, height, width: of the clips. latents: shape [C, T', H', W']."""

    frames: int = Field(ge=1, le=FRAMES)
    height: int = Field(ge=1, le=WIDTH)
    width: int = Field(ge=1, le=WIDTH)
    latents: tuple[Size, Size, Size, Size]

    @property
    def size(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return self.frames, self.height, self.width

    def __str__(self) -> str:
        return "x".join(map(str, self.latents))


class CacheCard(Config):
    """The contents of cache.json.

    format: see `FORMAT`. kind: of the model. origin: digests of codec, text encoder and tokenizer
    (`models.spec.Encoders`). sizes: that the clips have. text: tokens of a caption with the padding,
    and channels of a token. dtype: of what is stored. bad: clips that are left out, by key. provenance: versions,
    revision, date and machine.
    """

    format: int
    kind: str
    origin: dict[str, str]
    sizes: tuple[EncodedSize, ...]
    text: tuple[Size, Size]
    dtype: Dtype
    bad: dict[str, BadClip]
    provenance: dict[str, object]

    @property
    def latents(self) -> dict[tuple[int, int, int], tuple[int, ...]]:
        """Shape [C, T', H', W'] of the latents of a clip of each size (frames, height, width)."""
        return {one.size: one.latents for one in self.sizes}


def read_card(folder: Path) -> CacheCard:
    """The validated cache.json of a cache, whose index is compared with its digest, too. UserError, one line, where
    there is none of this version."""
    path = folder / CARD
    if not path.is_file():
        raise UserError(f"{path}: no such file: this is no cache, or its writing was cut off")
    integrity.check(folder, "write the cache again")
    try:
        card = CacheCard.model_validate(json_text.loads(json_text.read(path)), strict=False)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: {key}: {fault['msg']}: this file is not of this version of phys4d") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}: this file is damaged") from None
    if card.format != FORMAT:
        raise UserError(f"{path}: format: {card.format}, this version of phys4d reads {FORMAT}")
    return card
