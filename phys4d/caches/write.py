"""Writes a cache: the latents and tokens of all clips of a dataset, by any number of ranks, again after a kill.

Clips are divided into shards by their number alone. Each rank writes shards of its own; a finished shard stays after a
kill, and rank 0 makes the index of all. So the bytes do not depend on the number of ranks.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from phys4d.bad_clips import OnBad, most_bad, too_many
from phys4d.caches.captions import EncodedCaptions
from phys4d.caches.card import CARD, FORMAT, BadClip, CacheCard, Dtype
from phys4d.caches.packing import LATENTS, TEXT, packed, trimmed
from phys4d.caches.read import SOURCE, sources
from phys4d.caches.source import Source
from phys4d.engine.data.dataset import ClipDataset, ClipFault, Sample
from phys4d.engine.data.schema import REQUIRED
from phys4d.engine.data.shards import INDEX, LOCK, SCHEMA, acquire, end_shard, write_member
from phys4d.engine.data.stream import stream
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.integrity import digests, write_manifest
from phys4d.engine.output import OutputFolder
from phys4d.engine.progress import progress
from phys4d.engine.run_folder.provenance import provenance
from phys4d.engine.storage import replace_text, sync, without_links
from phys4d.models.interface import Codec, TextEncoder, check_size, encode_clips, from_bytes, latent_shape

_PARTS = 64  # a dataset has at least so many shards, if it has so many clips
_CLIPS = 256  # of a shard at most; a kill loses the shard that is being written
_BYTES = 1 << 30  # of a shard, about
_TEXT_BYTES = 1 << 30  # of captions that stay encoded on the device
_RECIPE, _FAULT = "recipe.json", "fault"


@dataclass(frozen=True)
class Plan:
    """What a cache is made of. folder, data: the dataset; source: the column `SOURCE` of its clips; codec, text: on
    `device`; dtype, on_bad: see `encode_dataset`; latents: shape [C, T', H', W'] of a clip's; shards: the clips of
    each.
    """

    folder: Path
    data: ClipDataset
    source: list[str]
    codec: Codec
    text: TextEncoder
    device: torch.device
    dtype: Dtype
    on_bad: OnBad
    latents: tuple[int, int, int, int]
    shards: list[range]


def encode_dataset(
    folder: Path, out: Path, model: Source, parallel: Parallel, *, dtype: Dtype = "fp32", on_bad: OnBad = "stop"
) -> CacheCard | None:
    """Writes the cache of a dataset to `out`, which must not exist or be empty; its card on rank 0, None elsewhere.

    Finished shards are kept when a process is stopped or killed, and the same call goes on after them.

    folder: of the dataset. out: on a file system that all ranks share. model: whose encoders are used. parallel: ranks
    and device; each rank encodes clips of its own. dtype: of what is stored. on_bad: "skip" leaves out clips that
    cannot be encoded, up to `bad_clips.MOST_BAD` of them.

    Raises UserError if a clip cannot be encoded, `out` is not empty, or holds shards of other settings.
    """
    plan = on_all_ranks(lambda: _plan(folder, model, parallel.device, dtype, on_bad))
    place, recipe = OutputFolder.of(out), _recipe(plan, model)
    lock = parallel.on_rank_zero(lambda: _begin(place, recipe))
    try:
        fault = _fault(plan, place.partial, parallel)
        faults = parallel.gather(None if fault is None else f"{fault}")

        def end() -> CacheCard:
            if fault is not None:
                raise fault
            if found := [line for line in faults or () if line is not None]:
                raise UserError(found[0])
            return _finish(plan, model, place)

        return parallel.on_rank_zero(end)
    finally:
        if lock is not None:
            os.close(lock)


def _fault(plan: Plan, partial: Path, parallel: Parallel) -> UserError | None:
    """Writes this rank's shards; the error that ended it, which ends the other ranks behind the shard they are at."""
    try:
        with parallel.at("encoding", float("inf")):
            _write_own(plan, partial, parallel)
        return None
    except UserError as error:
        (partial / _FAULT).touch()
        return error


def _plan(folder: Path, model: Source, device: torch.device, dtype: Dtype, on_bad: OnBad) -> Plan:
    data = ClipDataset(folder, arrays=(), required=REQUIRED)
    codec, text = model.encoders()
    for part in (codec, text):
        if isinstance(part, torch.nn.Module):
            part.to(device)
    try:
        check_size(data.size(), (codec.temporal_stride, codec.spatial_stride, codec.spatial_stride))
    except ValueError as error:
        raise UserError(f"{folder}: clips of {error}") from None
    latents = latent_shape(codec, data.size())
    each = 4 * (math.prod(latents) + text.tokens * text.width)
    size = max(1, min(_CLIPS, -(-len(data) // _PARTS), _BYTES // each))
    shards = [range(start, min(start + size, len(data))) for start in range(0, len(data), size)]
    return Plan(folder, data, sources(data).to_pylist(), codec, text, device, dtype, on_bad, latents, shards)


def _recipe(plan: Plan, model: Source) -> str:
    """Everything that the bytes depend on."""
    made = {"format": FORMAT, "kind": model.kind, "origin": dict(model.origin()), "dtype": plan.dtype}
    made |= {"on_bad": plan.on_bad, "clips": digests(plan.folder, [INDEX])[INDEX].sha256}
    return json.dumps(made | {"torch": torch.__version__, "device": plan.device.type}, sort_keys=True)


def _begin(place: OutputFolder, recipe: str) -> int:
    """Prepares the folder of unfinished files and returns the lock; removes what a kill left of unfinished shards."""
    place.prepare()
    lock = acquire(place)
    try:
        place.undo_publish()
        path = place.partial / _RECIPE
        if path.exists() and (begun := path.read_text(encoding="utf-8")) != recipe:
            raise UserError(
                f"{place.given}: begun with other settings ({begun}): give the same ones again, or remove "
                f"{place.partial}"
            )
        replace_text(path, recipe)
        for left in (*place.partial.glob("*.unfinished"), place.partial / _FAULT):
            left.unlink(missing_ok=True)
        return lock
    except BaseException:
        os.close(lock)
        raise


def _write_own(plan: Plan, partial: Path, parallel: Parallel) -> None:
    """Writes this rank's shards that are not finished."""
    if not (partial / _RECIPE).is_file():
        raise UserError(f"{partial}: rank {parallel.rank} does not see it: name --out on a disk that all ranks share")
    own = range(parallel.rank, len(plan.shards), parallel.world_size)
    left = [number for number in own if not _rows_of(partial, number).exists()]
    clips = [index for number in left for index in plan.shards[number]]
    read = stream(_Reading(plan.data), ([index] for index in clips))
    title = "encode" if parallel.world_size == 1 else f"encode, rank 0 of {parallel.world_size}"
    with progress(title, total=sum(len(plan.shards[number]) for number in own), unit="clips") as bar:
        bar.advance(sum(len(plan.shards[number]) for number in own) - len(clips))
        captions = EncodedCaptions(plan.text, _TEXT_BYTES)

        def samples() -> Iterator[Sample | ClipFault]:
            for batch in read:
                yield batch[0]
                bar.advance(1)

        taken = samples()
        for number in left:
            if (partial / _FAULT).exists():  # of another rank, which reports it
                return
            _write_shard(plan, partial, number, taken, captions)


class _Reading:
    """Clips of a dataset by index; a clip that cannot be read is its fault."""

    def __init__(self, data: ClipDataset) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Sample | ClipFault:
        try:
            return self.data[index]
        except ClipFault as fault:
            return fault


def _write_shard(
    plan: Plan, partial: Path, number: int, samples: Iterator[Sample | ClipFault], captions: EncodedCaptions
) -> None:
    """Writes one shard and then its rows, whose file says that it is whole."""
    unfinished = partial / f"{_name(number)}.unfinished"
    rows: list[dict[str, Any]] = []
    bad: dict[str, str] = {}
    texts: dict[str, dict[str, Any]] = {}
    with open(unfinished, "wb", opener=without_links) as shard:
        for index in plan.shards[number]:
            row, sample = plan.data.row(index), next(samples)
            try:
                if isinstance(sample, ClipFault):
                    raise sample
                members = _write_clip(plan, shard, sample, texts, captions)
            except ClipFault as fault:
                if plan.on_bad == "stop":
                    raise
                bad[row["key"]] = fault.brief
                continue
            rows.append(
                {name: row[name] for name in SCHEMA.names[:-1]}
                | {"shard": _name(number), "members": members, SOURCE: plan.source[index]}
            )
        end_shard(shard)
    os.rename(unfinished, partial / _name(number))
    sync(partial)
    replace_text(_rows_of(partial, number), json.dumps({"rows": rows, "bad": bad}))


def _write_clip(
    plan: Plan, shard: BinaryIO, sample: Sample, texts: dict[str, dict[str, Any]], captions: EncodedCaptions
) -> list[dict[str, Any]]:
    """Appends a clip's latents, and its tokens unless the shard has those of the same caption; returns its members."""
    caption = sample.meta["caption"]
    try:
        text = packed(TEXT, trimmed(captions[caption]), plan.dtype) if caption not in texts else None
        video = from_bytes(torch.from_numpy(sample.video[None]).to(plan.device))
        latents = packed(LATENTS, encode_clips(plan.codec, video)[0], plan.dtype)
    except ValueError as error:
        what = f"clip {sample.key}: {error}"
        raise ClipFault(plan.data.folder, sample.key, what, "write this dataset again") from None
    if text is not None:
        texts[caption] = write_member(shard, f"{sample.key}.{TEXT}", TEXT, text)
    return [write_member(shard, f"{sample.key}.{LATENTS}", LATENTS, latents), texts[caption]]


def _finish(plan: Plan, model: Source, place: OutputFolder) -> CacheCard:
    """Writes index, card and manifest over all shards, and moves the cache to its place."""
    written = [json.loads(_rows_of(place.partial, number).read_bytes()) for number in range(len(plan.shards))]
    rows = [row for part in written for row in part["rows"]]
    faults = {key: fault for part in written for key, fault in part["bad"].items()}
    if len(faults) > most_bad(len(plan.data)):
        raise too_many(plan.folder, len(faults), len(plan.data), next(iter(faults.values())))
    of_key = dict(zip(plan.data.keys().to_pylist(), plan.source, strict=True)) if faults else {}
    frames, height, width = plan.data.size()
    card = CacheCard(
        format=FORMAT,
        kind=model.kind,
        origin=dict(model.origin()),
        frames=frames,
        height=height,
        width=width,
        latents=plan.latents,
        text=(plan.text.tokens, plan.text.width),
        dtype=plan.dtype,
        bad={key: BadClip(source=of_key[key], fault=fault) for key, fault in faults.items()},
        provenance=provenance(),
    )
    with open(place.partial / f"{INDEX}.unfinished", "wb", opener=without_links) as file:
        schema = pa.schema([*SCHEMA, (SOURCE, pa.string())])
        pq.write_table(pa.Table.from_pylist(rows, schema), file, compression="zstd")
    sync(place.partial / f"{INDEX}.unfinished")
    os.rename(place.partial / f"{INDEX}.unfinished", place.partial / INDEX)
    replace_text(place.partial / CARD, card.model_dump_json(indent=1) + "\n")
    write_manifest(place.partial, digests(place.partial, [INDEX, CARD]))
    sync(place.partial)
    notes = [_rows_of(place.partial, number).name for number in range(len(plan.shards))]
    place.publish(INDEX, (*notes, _RECIPE, LOCK))
    return card


def _name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _rows_of(partial: Path, number: int) -> Path:
    """The file that holds the rows of a finished shard, and exists when that is whole on the disk."""
    return partial / f"shard-{number:06d}.json"
