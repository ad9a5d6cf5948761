"""Writes a cache: the latents and tokens of all clips of a dataset, by any number of ranks (`RankShards`)."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import torch

from phys4d.bad_clips import OnBad, limit
from phys4d.caches.captions import EncodedCaptions
from phys4d.caches.card import CARD, FORMAT, BadClip, CacheCard, Dtype, EncodedSize
from phys4d.caches.packing import LATENTS, NO_CAPTION, TEXT, packed, trimmed
from phys4d.caches.read import SOURCE, sources
from phys4d.caches.source import Source
from phys4d.engine.data.clip.schema import REQUIRED
from phys4d.engine.data.dataset import ClipDataset, ClipFault, Sample
from phys4d.engine.data.files.index import index_digest
from phys4d.engine.data.files.shards import SCHEMA, write_member
from phys4d.engine.data.stream import stream
from phys4d.engine.data.tools.rank_shards import RankShards, Row, Written, divided
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location
from phys4d.engine.run_folder.provenance import provenance
from phys4d.models.interface import Codec, TextEncoder, cached_shape, check_size, encode_for_cache, from_bytes

_TEXT_BYTES = 1 << 30  # of captions that stay encoded on the device


@dataclass(frozen=True)
class Plan:
    """What a cache is made of. data: the dataset; source: the column `SOURCE` of its clips; codec, text: on
    `device`; dtype: see `encode_dataset`; sizes: of the clips and their latents; shards: the clips of each.
    """

    data: ClipDataset
    source: list[str]
    codec: Codec
    text: TextEncoder
    device: torch.device
    dtype: Dtype
    sizes: tuple[EncodedSize, ...]
    shards: list[range]

    def read(self, clips: Sequence[int]) -> Iterable[Sample | ClipFault]:
        """These clips, read ahead; the fault of one that cannot be read."""
        for (sample,) in stream(_Reading(self.data), ([index] for index in clips)):
            yield sample


def encode_dataset(
    folder: Location, out: Path, model: Source, parallel: Parallel, *, dtype: Dtype = "fp32", on_bad: OnBad = "stop"
) -> CacheCard | None:
    """Writes the cache of a dataset to `out`, which must not exist or be empty; its card on rank 0, None elsewhere.

    Finished shards are kept when a process is stopped or killed, and the same call goes on after them.

    folder: of the dataset. out: on a file system that all ranks share. model: whose encoders are used. parallel: ranks
    and device; each rank encodes clips of its own. dtype: of what is stored. on_bad: "skip" leaves out clips that
    cannot be encoded, up to `bad_clips.MOST_BAD` of them.

    Raises UserError if a clip cannot be encoded, `out` is not empty, or holds shards of other settings.
    """
    plan = on_all_ranks(lambda: _plan(folder, model, parallel.device, dtype))
    card: list[CacheCard] = []

    def further(written: Written) -> Mapping[str, bytes]:
        card.append(_card(plan, model, written.bad))
        none = packed(TEXT, trimmed(plan.text([""])[0]), plan.dtype)
        return {CARD: f"{card[0].model_dump_json(indent=1)}\n".encode(), NO_CAPTION: none}

    with RankShards(out, parallel) as output:
        output.begin(plan.shards, limit(folder, len(plan.data), on_bad), lambda: (_recipe(plan, model), {}))
        keys = plan.data.keys()
        output.write("encode", plan.read, _Encoding(plan), lambda index: keys[index].as_py())
        output.finish(pa.schema([*SCHEMA, (SOURCE, pa.string())]), further)
    return card[0] if card else None


def _plan(folder: Location, model: Source, device: torch.device, dtype: Dtype) -> Plan:
    data = ClipDataset(folder, arrays=(), required=REQUIRED)
    codec, text = model.encoders()
    for part in (codec, text):
        if isinstance(part, torch.nn.Module):
            part.to(device)
    if not len(data):
        raise UserError(f"{folder}: holds no clips: simulate or label some first")
    sizes = tuple(_encoded_size(folder, codec, size) for size in data.sizes())
    largest = max(math.prod(size.latents) for size in sizes)
    shards = divided(len(data), 4 * (largest + text.tokens * text.width))
    return Plan(data, sources(data).to_pylist(), codec, text, device, dtype, sizes, shards)


def _encoded_size(folder: Location, codec: Codec, size: tuple[int, int, int]) -> EncodedSize:
    try:
        check_size(size, (codec.temporal_stride, codec.spatial_stride, codec.spatial_stride))
    except ValueError as error:
        raise UserError(f"{folder}: clips of {error}") from None
    frames, height, width = size
    return EncodedSize(frames=frames, height=height, width=width, latents=cached_shape(codec, size))


def _recipe(plan: Plan, model: Source) -> str:
    """Everything that the bytes depend on."""
    made = {"format": FORMAT, "kind": model.kind, "origin": dict(model.origin()), "dtype": plan.dtype}
    made |= {"clips": index_digest(plan.data.folder)}
    return json.dumps(made | {"torch": torch.__version__, "device": plan.device.type}, sort_keys=True)


class _Reading:
    """Clips of a dataset by index; a clip that cannot be read is its fault."""

    def __init__(self, data: ClipDataset) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Sample | ClipFault:
        try:
            return self.data[index]
        except ClipFault as fault:
            return fault


class _Encoding:
    """Appends a clip's latents to a shard, and its tokens unless the shard has those of the same caption."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._captions = plan, EncodedCaptions(plan.text, _TEXT_BYTES)
        self._shard: BinaryIO | None = None
        self._texts: dict[str, dict[str, Any]] = {}  # of this shard

    def __call__(self, shard: BinaryIO, index: int, sample: Sample) -> Row:
        plan, row, caption = self._plan, self._plan.data.row(index), sample.meta["caption"]
        if shard is not self._shard:
            self._shard, self._texts = shard, {}
        try:
            text = packed(TEXT, trimmed(self._captions[caption]), plan.dtype) if caption not in self._texts else None
            video = from_bytes(torch.from_numpy(sample.video[None]).to(plan.device))
            latents = packed(LATENTS, encode_for_cache(plan.codec, video)[0], plan.dtype)
        except ValueError as error:
            what = f"clip {sample.key}: {error}"
            raise ClipFault(plan.data.folder, sample.key, what, "write this dataset again") from None
        if text is not None:
            self._texts[caption] = write_member(shard, f"{sample.key}.{TEXT}", TEXT, text)
        members = [write_member(shard, f"{sample.key}.{LATENTS}", LATENTS, latents), self._texts[caption]]
        return {name: row[name] for name in SCHEMA.names[:-1]} | {"members": members, SOURCE: plan.source[index]}


def _card(plan: Plan, model: Source, bad: Mapping[str, str]) -> CacheCard:
    of_key = dict(zip(plan.data.keys().to_pylist(), plan.source, strict=True)) if bad else {}
    return CacheCard(
        format=FORMAT,
        kind=model.kind,
        origin=dict(model.origin()),
        sizes=plan.sizes,
        text=(plan.text.tokens, plan.text.width),
        dtype=plan.dtype,
        bad={key: BadClip(source=of_key[key], fault=fault) for key, fault in bad.items()},
        provenance=provenance(),
    )
