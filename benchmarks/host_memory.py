"""Host memory that a rank takes to build, adapt, shard and load a transformer of published size, and how long it takes.

    python -m phys4d.benchmarks.host_memory [--ranks 4] [--layers 30] [--out DIR]

A folder of the published layout (three shards, fp32) is written with the real configuration of Wan2.2-TI2V-5B and
with weights that are all zero, as files with holes. Each rank, a process on this machine, builds the model with a LoRA
of rank 16 and heads as `finetune` does in bf16, shards it over the ranks and reads its rows. Reported is the peak of
its resident memory above what the process takes before (interpreter, torch, diffusers), beside the memory of its part
of the weights and that of the largest tensor of the files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from phys4d.benchmarks import results

MIB = 2**20
SHARDS = 3
CLIP = (49, 480, 832)


def write_folder(folder: Path, layers: int) -> int:
    """Writes transformer/ of the published layout, weights all zero; returns the bytes of its largest tensor."""
    import torch
    from diffusers import WanTransformer3DModel

    from phys4d.benchmarks.model_memory import WAN
    from phys4d.models.diffusers_folder import WEIGHTS

    with torch.device("meta"):
        transformer = WanTransformer3DModel(**WAN, num_layers=layers)
    folder.mkdir(parents=True)
    config = {"_class_name": "WanTransformer3DModel", **{key: transformer.config[key] for key in transformer.config}}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    tensors = list(transformer.state_dict().items())
    where: dict[str, str] = {}
    for k in range(SHARDS):
        name = f"{WEIGHTS}-{k + 1:05}-of-{SHARDS:05}.safetensors"
        header, offset = {}, 0
        for key, tensor in tensors[len(tensors) * k // SHARDS : len(tensors) * (k + 1) // SHARDS]:
            size = 4 * tensor.numel()
            header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
            where[key], offset = name, offset + size
        text = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + offset)
    (folder / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return max(4 * tensor.numel() for _, tensor in tensors)


def load(folder: Path) -> dict[str, Any]:
    """Builds and loads the model on this rank: bytes that it holds, peak memory above the start, and seconds."""
    import torch
    from torch import nn

    from phys4d.engine.distributed.collectives import local
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.engine.run_folder.provenance import peak_rss_mb
    from phys4d.models.config import ModelConfig
    from phys4d.models.interface import Grid
    from phys4d.models.lora import SUPERVISED, add_adapter
    from phys4d.models.placement import place
    from phys4d.models.spec import Parts
    from phys4d.models.wan.backbone import WanBackbone
    from phys4d.models.wan.spec import build_transformer
    from phys4d.models.world import WorldModel

    torch.set_num_threads(1)

    class Absent(nn.Module):
        """In place of codec and text encoder, which are not counted."""

        channels, width = 48, 4096

    with Parallel.start() as parallel:
        before, since = peak_rss_mb(), time.perf_counter()
        taps = (9, 19, 29)
        backbone = WanBackbone(build_transformer(folder), tuple(k for k in taps if k < 30))
        config = ModelConfig(kind="wan", taps=taps).resolved(50, 5.0)
        parts = Parts(backbone, Absent(), Absent(), folder)  # type: ignore[arg-type]
        model = WorldModel(config, Grid(*CLIP, (4, 32, 32)), parts, seed=0).requires_grad_(False)
        add_adapter(backbone.transformer, SUPERVISED, 16, 0, backbone.lora_targets)
        model.heads.requires_grad_(True)
        backbone.precision = "bf16"
        place(model, parallel)
        held = sum(local(p.detach()).nbytes for p in model.parameters())
        whole = sum(p.nbytes for p in model.parameters())
        return {
            "rank": parallel.rank, "held_mib": held / MIB, "whole_mib": whole / MIB, "before_mib": before,
            "peak_mib": peak_rss_mb() - before, "seconds": time.perf_counter() - since,
        }  # fmt: skip


def measure(ranks: int, layers: int) -> dict[str, Any]:
    """Runs the ranks and collects what they report."""
    from phys4d.engine.run_folder.provenance import provenance

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "transformer"
        largest = write_folder(folder, layers) / MIB
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *command, "-m", "phys4d.benchmarks.host_memory", "--one", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(f"a rank ended with {done.returncode}, see above")
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for row in rows:
        row["bound_mib"] = 1.3 * row["held_mib"] + largest
    return {
        "model": f"Wan2.2-TI2V-5B, {layers} blocks", "ranks": sorted(rows, key=lambda row: row["rank"]),
        "largest_tensor_mib": largest, "provenance": provenance(),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """One row for each rank."""
    lines = ["| rank | its part MiB | peak MiB | 1.3 x part + largest tensor MiB | s |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['rank']} | {r['held_mib']:.0f} | {r['peak_mib']:.0f} | {r['bound_mib']:.0f} | {r['seconds']:.0f} |"
        for r in found["ranks"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.host_memory")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(load(options.one)), flush=True)
    else:
        found = measure(options.ranks, options.layers)
        print(table(found))
        if options.out is not None:
            results.write(options.out / "host-memory.json", found)
