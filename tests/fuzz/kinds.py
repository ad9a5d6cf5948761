"""The kinds of files that are mutated: how a sound case is made, changed and read. A new kind is one entry of KINDS.

A case is a folder, held as {path in it: bytes}. Imports that cost seconds are in the functions of their kind.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.dataset_kinds import (
    Case,
    blob_with_checksums,
    build_captions,
    build_tars,
    dataset,
    digest,
    header_of_tar,
    in_file,
    in_member,
    in_table,
    read_captions,
    read_dataset,
    read_tars,
    rows,
    without_manifest,
)  # fmt: skip
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
