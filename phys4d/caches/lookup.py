"""Where a run finds the cache of a dataset."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from phys4d.caches.read import LatentCache
from phys4d.caches.source import Source
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location, Remote
from phys4d.engine.resume import OnResume

FOLDER = "cache"
"""In the folder of a dataset: its cache, unless another folder is named."""

CACHED = OnResume(
    "latents and tokens of the same clips, read or computed: the same bits where a cache in fp32 is of the same device",
    anytime=True,
)
CacheMode = Annotated[Literal["auto", "required", "off"], CACHED]
"""Whether stages read latents and tokens from caches: where there is one; from caches alone; or never."""
Latents = Annotated[Path | None, CACHED]
"""Folder of the cache of a table's `data`, None for `FOLDER` in it."""


def command(data: Location, latents: Path | None, source: Source) -> str:
    """The command that writes the cache of a dataset."""
    return f"`phys4d data encode {data} --model {source.name}{'' if latents is None else f' --out {latents}'}`"


def folder_of(data: Location, latents: Path | None) -> Path | None:
    """Where the cache of a table's dataset is, or would be; None for a dataset behind a URL, beside which none is
    read."""
    return latents if latents is not None or isinstance(data, Remote) else data / FOLDER


def is_read(data: Location, latents: Path | None, mode: str) -> bool:
    """Whether a table reads a cache, which then must be there; arguments as of `find_cache`."""
    asked, folder = mode == "required" or latents is not None, folder_of(data, latents)
    return mode != "off" and (asked or (folder is not None and folder.exists()))


def all_read(data: Iterable[Any], mode: str) -> bool:
    """Whether all of some datasets with a `folder` and `latents` read a cache."""
    return all(is_read(part.folder, part.latents, mode) for part in data)


def find_cache(data: Location, latents: Path | None, mode: str, source: Source) -> LatentCache | None:
    """The cache that a table of a run file reads, None where every step encodes its clips.

    data, latents: of the table. mode: `cache` of the run file. source: the encoders of its model.

    UserError where a cache is asked for and is not there, and as of `LatentCache`.
    """
    if not is_read(data, latents, mode):
        return None
    folder, advice = folder_of(data, latents), command(data, latents, source)
    if folder is None:
        raise UserError(f"{data}: a cache of a dataset behind a URL is in a local folder: name it in latents")
    if not folder.exists():
        raise UserError(f"{folder}: no such cache: {advice} writes it")
    return LatentCache(folder, ClipDataset(data, arrays=()), source.kind, source.origin(), advice)


def line(data: Location, latents: Path | None, mode: str, source: Source, found: LatentCache | None) -> str:
    """What `find_cache` found, for a log."""
    if found is not None:
        return f"latents and text from {found.folder} ({found.card.dtype})"
    why = 'cache = "off"' if mode == "off" else f"no cache; {command(data, latents, source)} writes one"
    return f"every step encodes its clips ({why})"
