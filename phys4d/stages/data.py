"""`data` in the table of a stage: one dataset, or several that are mixed."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, WrapSerializer

from phys4d.caches.lookup import Latents
from phys4d.caches.read import LatentCache
from phys4d.engine.config import Config, Place
from phys4d.engine.data.files.index import index_digest
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location
from phys4d.engine.resume import DATA
from phys4d.mixture import Mixture, Part

Value = str | int | float


class DataPart(Config):
    """One of the datasets in `data = [{ folder = "a", weight = 2 }, { folder = "b", weight = 1 }]`.

    folder: of the dataset, or its URL.
    weight: share of the clips that come from it, beside the weights of the others; either all have one or none;
        default: its number of clips, so that all clips are drawn equally often.
    where: column of its index -> values; clips that have none of them take no part:
        { category = ["fluid", "rigid"], frames = [49] }.
    latents: folder of its cache, as `latents` of the stage for one dataset.
    """

    folder: Place
    weight: float | None = Field(None, gt=0, allow_inf_nan=False)
    where: dict[str, tuple[Value, ...]] = {}
    latents: Latents = None

    def __str__(self) -> str:
        return str(self.folder)


def _parts(value: Location | tuple[DataPart, ...]) -> tuple[DataPart, ...]:
    """A folder as the only part; ValueError for parts that do not go together."""
    parts = value if isinstance(value, tuple) else (DataPart(folder=value),)
    if not parts:
        raise ValueError("expected a folder or an array of datasets")
    if len({part.weight is None for part in parts}) > 1:
        raise ValueError("weight: expected of all datasets, or of none")
    return parts


def _shortest(parts: tuple[DataPart, ...], write: Callable[[Any], Any]) -> Any:
    """A folder alone as in most run files."""
    return str(parts[0].folder) if parts == (DataPart(folder=parts[0].folder),) else write(parts)


if TYPE_CHECKING:
    Data = tuple[DataPart, ...]
else:
    Data = Annotated[
        Annotated[
            Annotated[tuple[DataPart, ...], Tag("parts")] | Annotated[Place, Tag("folder")],
            Discriminator(lambda value: "parts" if isinstance(value, list | tuple) else "folder"),
        ],
        AfterValidator(_parts),
        WrapSerializer(_shortest),
        DATA,
    ]
"""A folder, or an array of tables `DataPart`; a tuple of parts once it is read."""


def data_of(table: Any) -> tuple[DataPart, ...]:
    """The datasets that a table of the run file names, of a stage or of the evaluation, with the cache that `latents`
    of the table names. UserError where that is given beside several datasets."""
    data = table.data if isinstance(table.data, tuple) else (DataPart(folder=table.data),)
    if table.latents is None:
        return data
    if len(data) > 1:
        raise UserError(f"latents: {table.latents}: is of one dataset, data has {len(data)}: name it in each of them")
    return (data[0].model_copy(update={"latents": table.latents}),)


def with_caches(parts: Sequence[DataPart], caches: Sequence[LatentCache | None] = ()) -> list[Part]:
    """The parts of a mixture; caches: of each part; default: none."""
    caches = caches or [None] * len(parts)
    return [Part(part.folder, part.weight, part.where, cache) for part, cache in zip(parts, caches, strict=True)]


def largest(parts: tuple[DataPart, ...]) -> tuple[int, int, int]:
    """(frames, height, width) of the bucket with the most pixels, by which a model is made."""
    sizes = {bucket[:3] for bucket in Mixture(with_caches(parts), ()).buckets}
    return max(sizes, key=lambda size: (math.prod(size), size))


def identity(parts: tuple[DataPart, ...]) -> str:
    """A digest of the clips and of how they are drawn: of each index, which holds the hashes of its clips, and of
    weights and columns."""
    indexes = [index_digest(part.folder) for part in parts]
    if len(parts) == 1 and not parts[0].where:
        return indexes[0]
    how = [part.model_dump(mode="json", include={"weight", "where"}) for part in parts]
    return hashlib.sha256(json.dumps([indexes, how], sort_keys=True).encode()).hexdigest()
