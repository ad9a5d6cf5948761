"""The kinds of files that are mutated: how a sound case is made, changed and read. A new kind is one entry of KINDS.

A case is a folder, held as {path in it: bytes}. Imports that cost seconds are in the functions of their kind.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.fuzz.foreign_kinds import build_captions, build_tars, header_of_tar, in_table, read_captions, read_tars
from tests.fuzz.mutations import damaged, json_text, malicious, toml_text
from tests.fuzz.run_kinds import (
    build_cache,
    build_checkpoint,
    build_model,
    build_run,
    in_any_file,
    in_cache,
    read_cache,
    read_checkpoint,
    read_model,
    read_run_folder,
)

Case = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    build: makes the files of a sound case. mutate: changes a copy of them. read: reads a case as the program does, and
    returns a digest of each item that was read; what is refused is left out or raises UserError. covered: whether a
    digest in the case covers what is changed, so that nothing else than the sound items may be read.
    """

    build: Callable[[], Case]
    mutate: Callable[[Case, Random], Case]
    read: Callable[[Path], dict[str, str]]
    covered: bool = False


def digest(*parts: Any) -> str:
    """One digest of arrays, texts and values."""
    total = hashlib.sha256()
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode("utf-8", "surrogatepass")
        total.update(f"{len(data)}:".encode() + data)
    return total.hexdigest()


FRAMES, HEIGHT, WIDTH = 4, 16, 24


@cache
def members() -> dict[str, bytes]:
    """The members of one clip."""
    from phys4d.engine.data.clip import blob
    from phys4d.engine.data.clip.video import encode_mp4

    draw = np.random.default_rng(0)
    depth = draw.uniform(1, 9, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)
    depth[:, :2] = 0
    later = (FRAMES - 1, HEIGHT, WIDTH)
    arrays = {"depth": depth, "depth_valid": depth > 0, "motion": draw.normal(size=(3, *later)).astype(np.float32)}
    arrays |= {name: draw.random(later) < 0.5 for name in ("flow_valid", "dz_valid", "visible", "moving")}
    meta = {
        "caption": "a ball falls", "category": "rigid", "fps": 24, "frames": FRAMES, "height": HEIGHT, "width": WIDTH,
        "intrinsics": [[[30, 0, 12], [0, 30, 8], [0, 0, 1]]] * FRAMES, "depth_kind": "metric",
        "camera_to_world": np.eye(4)[None].repeat(FRAMES, 0).tolist(), "provenance": {"seed": 1, "drawn": [1, 2]},
    }  # fmt: skip
    frames = draw.integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8)
    return {
        "mp4": encode_mp4(frames, 24),
        "truth": blob.encode(arrays, blob.QUANTISATION),
        "json": json.dumps(meta).encode(),
    }


def dataset(**changed: bytes) -> Case:
    """A dataset of three clips in two shards; `changed`: other members of the second one, whose digests are right."""
    from phys4d.engine.data.files.shards import ShardWriter

    with TemporaryDirectory() as folder:
        room = sum(map(len, members().values())) * 2 + 8192
        with ShardWriter(Path(folder) / "clips", shard_bytes=room) as writer:
            for clip in range(3):
                writer.add(f"clip{clip}", members() | (changed if clip == 1 else {}), FRAMES, 24, HEIGHT, WIDTH)
        return {path.name: path.read_bytes() for path in (Path(folder) / "clips").iterdir() if path.is_file()}


def without_manifest() -> Case:
    """The same, as a writer leaves it that has no digest of the index."""
    return {name: data for name, data in dataset().items() if name != "manifest.json"}


def read_dataset(folder: Path) -> dict[str, str]:
    """Every clip that can be read, by key; each is also looked at without decoding, and read once more."""
    from phys4d.engine.data.dataset import ClipDataset
    from phys4d.engine.errors import UserError

    clips, read = ClipDataset(folder), {}
    for index in range(len(clips)):
        try:
            clips.probe(index)
            sample = clips[index]
        except UserError as error:
            assert str(error).isprintable(), error
            continue
        assert all(np.isfinite(sample.arrays[name]).all() for name in ("depth", "motion") if name in sample.arrays)
        row = {name: value for name, value in clips.row(index).items() if name not in ("members", "shard")}
        read[sample.key], again = (
            digest(one.video, sorted(one.arrays), *one.arrays.values(), one.meta, row) for one in (sample, clips[index])
        )
        assert again == read[sample.key], f"{sample.key} differs when it is read again"
    return read


def in_file(ending: str, change: Callable[[bytes, Random], bytes]) -> Callable[[Case, Random], Case]:
    """Changes one of the files with this ending."""

    def mutate(case: Case, draw: Random) -> Case:
        name = draw.choice(sorted(name for name in case if name.endswith(ending)))
        return case | {name: change(case[name], draw)}

    return mutate


def in_member(name: str, change: Callable[[bytes, Random], bytes]) -> Callable[[Case, Random], Case]:
    """Changes a member of a clip and writes the dataset with its digest, as a hostile writer would."""
    return lambda case, draw: dataset(**{name: change(members()[name], draw)})


def blob_with_checksums(data: bytes, draw: Random) -> bytes:
    """An array blob with a malicious header or damaged buffers, and all checksums right."""
    if draw.random() < 0.2:
        return damaged(data, draw)
    start = 16 + struct.unpack_from("<I", data, 8)[0]
    header, buffers = json.loads(data[16:start]), data[start:]
    if draw.random() < 0.5:
        buffers = damaged(buffers, draw)
        for entry in header["arrays"]:
            entry["crc32"] = zlib.crc32(buffers[entry["offset"] : entry["offset"] + entry["bytes"]])
    else:
        header = malicious(header, draw)
    raw = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<8sII", data[:8], len(raw), zlib.crc32(raw)) + raw + buffers


def rows(data: bytes, draw: Random) -> bytes:
    """An index with malicious rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    while True:
        changed = malicious(table.to_pylist(), draw)
        try:
            schema = table.schema if draw.random() < 0.8 else None
            written = pa.Table.from_pylist(changed, schema)
            sink = pa.BufferOutputStream()
            pq.write_table(written, sink, compression="zstd")
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
            continue
        return sink.getvalue().to_pybytes()


RUN = b"""
folder = "runs/mine"
stages = ["backbone", "pretrain"]
seed = 3
[model]
width = 32
taps = [0, 1]
heads = { width = 8 }
[backbone]
data = "data/train" # a comment
optimizer = { learning_rate = 1e-3, ema = 0.9 }
loop = { steps = 3, log_every = 1 }
[pretrain]
data = 'data/labelled'
batch = 2
weights = { warp = 0.5 }
optimizer = { learning_rate = 1e-3 }
loop = { steps = 3 }
"""


def read_run(folder: Path) -> dict[str, str]:
    """The run file as it is validated."""
    from phys4d.engine.config import dump_toml, load_toml
    from phys4d.stages.run_file import RunConfig

    return {"run": digest(dump_toml(load_toml(folder / "run.toml", RunConfig)))}


def build_card() -> Case:
    """The card of a tiny model."""
    card = {
        "format": 1, "stage": "pretrain", "frames": 5, "height": 16, "width": 16, "adapters": ["finetune"],
        "base": "../model-backbone", "provenance": {"phys4d": "0", "seed": [1, 2]},
        "model": {
            "kind": "tiny", "width": 32, "layers": 2, "taps": [0, 1], "heads": {"width": 8}, "probe_sigma": 0.05,
            "sampling_steps": 2, "sampling_shift": 3.0, "attention": "auto",
        },
    }  # fmt: skip
    return {"phys4d.json": json.dumps(card).encode()}


def read_the_card(folder: Path) -> dict[str, str]:
    """The card, and the model that it describes as far as that needs no file."""
    from phys4d.engine.errors import UserError
    from phys4d.models.card import base_of, read_card
    from phys4d.models.preflight import check_new

    card = read_card(folder)
    with suppress(UserError):  # its backbone is not part of the case
        base_of(card, folder)
    if card.model.kind == "tiny":
        check_new(card.model)
    return {"card": digest(card)}


def build_weights() -> Case:
    """A file of weights."""
    import torch
    from safetensors.torch import save

    return {"w.safetensors": save({f"block.{n}.weight": torch.full((3, 4), float(n)) for n in range(4)}, {"a": "b"})}


def header_of_weights(data: bytes, draw: Random) -> bytes:
    """A safetensors file with a malicious header of the right length, or damage anywhere."""
    if draw.random() < 0.4:
        return damaged(data, draw)
    length = int.from_bytes(data[:8], "little")
    raw = json.dumps(malicious(json.loads(data[8 : 8 + length]), draw)).encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(8, "little") + raw + data[8 + length :]


def read_weights_header(folder: Path) -> dict[str, str]:
    """What the header says."""
    from phys4d.models.headers import read_header

    tensors, metadata = read_header(folder / "w.safetensors")
    return {"header": digest(sorted(tensors.items()), metadata)}


def build_config() -> Case:
    """The configuration of a released transformer, without its weights."""
    config = {
        "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.35.0", "patch_size": [1, 2, 2],
        "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 8, "out_channels": 8, "text_dim": 32,
        "freq_dim": 32, "ffn_dim": 64, "num_layers": 3, "rope_max_seq_len": 64, "cross_attn_norm": True, "eps": 1e-6,
        "qk_norm": "rms_norm_across_heads", "image_dim": None, "added_kv_proj_dim": None, "pos_embed_seq_len": None,
    }  # fmt: skip
    return {"config.json": json.dumps(config).encode()}


def read_the_config(folder: Path) -> dict[str, str]:
    """The transformer that a configuration describes, up to the refusal that its weights are absent."""
    from phys4d.models.wan.published import check_transformer

    return {"config": digest(check_transformer(folder))}


KINDS: dict[str, Kind] = {
    "shard": Kind(dataset, in_file(".tar", damaged), read_dataset, covered=True),
    "index": Kind(dataset, in_file(".parquet", damaged), read_dataset, covered=True),
    "manifest": Kind(dataset, in_file("manifest.json", json_text), read_dataset, covered=True),
    "bare index": Kind(without_manifest, in_file(".parquet", damaged), read_dataset),
    "rows": Kind(without_manifest, in_file(".parquet", rows), read_dataset),
    "truth": Kind(dataset, in_member("truth", blob_with_checksums), read_dataset),
    "mp4": Kind(dataset, in_member("mp4", damaged), read_dataset),
    "json": Kind(dataset, in_member("json", json_text), read_dataset),
    "cache": Kind(build_cache, in_cache, read_cache, covered=True),
    "tar": Kind(build_tars, in_file(".tar", header_of_tar), read_tars),
    "captions": Kind(build_captions, in_table, read_captions),
    "run file": Kind(lambda: {"run.toml": RUN}, in_file(".toml", toml_text), read_run),
    "card": Kind(build_card, in_file(".json", json_text), read_the_card),
    "weights": Kind(build_weights, in_file(".safetensors", header_of_weights), read_weights_header),
    "config": Kind(build_config, in_file(".json", json_text), read_the_config),
    "checkpoint": Kind(build_checkpoint, in_any_file, read_checkpoint, covered=True),
    "model": Kind(build_model, in_any_file, read_model, covered=True),
    "run folder": Kind(build_run, in_any_file, read_run_folder),
}
QUICK = ("shard", "index", "bare index", "rows", "truth", "mp4", "json", "tar")
"""Kinds whose readers need no import of torch."""
