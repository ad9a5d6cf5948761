"""What is to be generated: one clip from the options of a command, or many from a jsonl file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from phys4d.engine import json_text
from phys4d.engine.config import Config, build
from phys4d.engine.data.tools.framing import Framing
from phys4d.engine.errors import UserError
from phys4d.engine.limits import CAPTIONS_BYTES, PICTURE_PIXELS


class Request(Config):
    """One clip, a line of a jsonl file: what is left out is that of the command.

    image: the first frame, if the model reads one; a relative path is relative to the jsonl file. prompt: what happens.
    negative: what the guidance leads away from. seed: of the noise. guidance: scale of classifier-free guidance, 1 for
    none. name: of the clip's folder in the output folder; default: the number of the line, 0001 for the first.
    """

    image: Path | None = None
    prompt: str
    negative: str = ""
    seed: int = Field(0, ge=0)
    guidance: float = Field(ge=1, le=100)
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")


@dataclass(frozen=True)
class FirstFrame:
    """A picture as the first frame of a clip, uint8 [H, W, 3] or None, and intrinsics [3, 3] in pixels of the clip."""

    picture: np.ndarray | None
    intrinsics: list[list[float]]


def read_requests(path: Path, defaults: Mapping[str, Any]) -> list[Request]:
    """The lines of a jsonl file; empty lines are passed over.

    path: UTF-8, one object with the keys of `Request` in each line. defaults: values of keys that a line leaves out.

    Raises UserError that names the line.
    """
    try:
        data = json_text.read(path, CAPTIONS_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read: {reason}") from None
    requests: dict[str, Request] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json_text.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f'{where}: expected an object, such as {{"image": "first.png", "prompt": "a ball falls"}}')
        request = build(Request, {**defaults, "name": f"{number:04d}", **values}, where)
        if request.image is not None and not request.image.is_absolute():
            request = request.model_copy(update={"image": path.parent / request.image})
        if request.name in requests:
            raise UserError(f"{where}: name: {request.name} is that of an earlier line")
        requests[request.name] = request
    if not requests:
        raise UserError(f"{path}: no lines: expected one object in each")
    return list(requests.values())


def first_frame(path: Path | None, size: tuple[int, int], fov: float, *, crop: bool) -> FirstFrame:
    """The picture in a file, resized to (height, width).

    path: any format that Pillow reads; turned as its EXIF tag says; None for no picture. size: (height, width) of the
    clip. fov: degrees across the width of the picture. crop: keep the centre of a picture of another aspect.

    Raises UserError for a file that is no picture, and for another aspect without `crop`.
    """
    if path is None:
        return FirstFrame(None, Framing(size, size).intrinsics(fov))
    try:
        with Image.open(path) as image:
            if image.width * image.height > PICTURE_PIXELS:
                raise UserError(f"{path}: {image.height}x{image.width} pixels, at most {PICTURE_PIXELS} are read")
            picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is no picture, or damaged"
        raise UserError(f"{path}: cannot be read as a picture: {reason}") from None
    framing = Framing(picture.shape[:2], size)
    left, top, _, _ = framing.box
    if max(left, top) * framing.scale > 1 and not crop:  # over a pixel of the clip is lost at two edges
        raise UserError(
            f"{path}: {picture.shape[0]}x{picture.shape[1]} pixels, the clip is {size[0]}x{size[1]}, of another aspect "
            "(height x width): give --crop to keep the centre, or another --size"
        )
    return FirstFrame(framing.apply(picture), framing.intrinsics(fov))
