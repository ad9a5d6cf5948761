"""Steps of a stage at a model's published size, with random weights: time, MFU, memory, the largest costs.

    python -m phys4d.benchmarks.train_step RUN.toml --model wan2.2-ti2v-5b --clip 49x480x832 [--stage finetune]
        [--steps 12] [--cached] [--set A.B=C] [--out DIR]

Nothing is downloaded: the model is built from what is known of the published one, its weights are drawn on the device,
and clips are noise of that size. The stage runs through the engine as in a run. Beside what is measured stands what
`phys4d train --dry-run` predicts for this GPU. With --cached clips arrive as latents and text tokens, as from a cache,
and neither the video autoencoder nor the text encoder is there; not for stages that decode what they generate. On
several GPUs: under torchrun, with the mesh of the
run file.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.batch import Batch
from phys4d.benchmarks import results
from phys4d.dry_run.clips import ClipsWithoutValues
from phys4d.dry_run.model import Source, source_of, stage_model
from phys4d.dry_run.prediction import Prediction, predict
from phys4d.dry_run.run import parsed_clip
from phys4d.engine.config import load_toml
from phys4d.engine.costs.gpus import GPUS
from phys4d.engine.distributed.collectives import local
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.run_folder.provenance import provenance
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.loop import LoopConfig, train
from phys4d.engine.training.profiler import ProfileConfig
from phys4d.engine.training.telemetry import Wait, Workload
from phys4d.models.interface import cached_shape
from phys4d.models.placement import place
from phys4d.models.world import WorldModel
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig

WARM_UP, PROFILED = 3, 2  # steps
GIB = 2**30
SHOWN = ("speed.clips", "speed.tflops", "speed.mfu", "speed.hfu", "memory.peak", "grad_norm")


@dataclass(frozen=True)
class Asked:
    """stage, size of a clip (frames, height, width), steps that are timed, and whether latents are given."""

    stage: str
    size: tuple[int, int, int]
    steps: int
    cached: bool


class ClipsOfNoise(ClipsWithoutValues):
    """Clips with values: random numbers above 1, and masks that are all set."""

    waited = Wait()
    drawn = 0

    def batch(self, size: int, parallel: Parallel, *place: Any, **options: Any) -> Batch:
        empty = super().batch(size, parallel, *place, **options)
        self.drawn += size

        def filled(value: Tensor) -> Tensor:
            value = torch.empty_like(value, device=parallel.device)
            return value.fill_(True) if value.dtype == torch.bool else value.float().uniform_(1, 2).to(value.dtype)

        values = {field.name: getattr(empty, field.name) for field in fields(empty)}
        given = (name for name in ("video", "text", "intrinsics", "latents") if values[name] is not None)
        values |= {name: filled(values[name]) for name in given}
        return Batch(**values | {"arrays": {name: filled(array) for name, array in empty.arrays.items()}})


def draw(model: WorldModel, names: Collection[str]) -> None:
    """Draws weights and buffers of the transformer where it lies, each rank its own part."""
    transformer = model.backbone.transformer
    tensors = dict(transformer.named_parameters()) | dict(transformer.named_buffers())
    with torch.no_grad():
        for name in names:
            local(tensors[name]).normal_(0.0, 0.02)


def clips_for(model: WorldModel, arrays: tuple[str, ...], asked: Asked) -> ClipsOfNoise:
    """Clips for a model that is not yet on its device."""
    latents = cached_shape(model.codec, asked.size) if asked.cached else None
    return ClipsOfNoise(asked.size, arrays, (model.text.tokens, model.text.width), latents)


def put(model: WorldModel, config: RunConfig, parallel: Parallel, asked: Asked) -> None:
    """Shards the model over the ranks and draws its weights; with latents given, without codec and text encoder."""
    if asked.cached:
        nothing: Any = nn.Identity()
        nothing.image_apart, nothing.temporal_stride = model.codec.image_apart, model.codec.temporal_stride
        nothing.own = False
        model.codec = model.text = nothing
    model.use_attention(config.model.attention, parallel)
    place(model, parallel, checkpointing=config.checkpointing, compiled=config.compile, fill=draw)
    with torch.no_grad():
        for part in (model.codec, model.text):
            for parameter in part.parameters() if isinstance(part, nn.Module) else ():
                parameter.normal_(0.0, 0.02)


def measure(path: Path, overrides: list[str], name: str | None, asked: Asked, parallel: Parallel) -> dict[str, Any]:
    """Runs the steps; the figures of this rank's log, which are those of all ranks."""
    config = load_toml(path, RunConfig, [*overrides, *(['cache="required"'] if asked.cached else [])])
    parallel.arrange(config.parallel)
    source, spec, table = source_of(config, name), STAGES[asked.stage], config.table(asked.stage)
    model = stage_model(config, asked.stage, source, asked.size, source.bare.layers)
    clips: Any = clips_for(model, spec.arrays(table), asked)
    put(model, config, parallel, asked)
    objective = spec.objective(table, model, parallel, config.seed, clips)
    count, tokens = spec.samples(table), math.prod(model.grid.tokens)
    timed = WARM_UP + asked.steps
    profile = ProfileConfig(start=timed + 1, steps=PROFILED)
    loop = LoopConfig(steps=timed + PROFILED, log_every=1, checkpoint_every=0, profile=profile)
    with tempfile.TemporaryDirectory() as here:
        shared = [here]
        if parallel.world_size > 1:
            torch.distributed.broadcast_object_list(shared)
        folder = Path(shared[0]) / "run"
        with Run.create(folder, config.model_copy(update={"folder": folder}), resume=False) as run:
            workload = Workload(
                lambda: {"clips": clips.drawn, "tokens": clips.drawn * tokens}, clips.waited, model
            )
            train(
                objective, optimizer=table.optimizer, loop=loop, run=run, parallel=parallel,
                resume=False, workload=workload,
            )  # fmt: skip
            parallel.any(False)
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            (costs,) = (folder / "profile" / asked.stage).glob("*.rank0.costs.json")
            largest = json.loads(costs.read_text())[:10]
            parallel.any(False)  # before its place is removed
    kept = lines[WARM_UP:timed]
    seconds = [line["seconds"] for line in kept]
    cuts = statistics.quantiles(seconds, n=5, method="inclusive")
    device = parallel.device
    return {
        "run": path.name, "set": overrides, "model": name, "stage": asked.stage, "cached": asked.cached,
        "clip": "x".join(map(str, asked.size)), "tokens": tokens, "clips": count, "ranks": parallel.world_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "seconds": statistics.median(seconds), "seconds_p20": cuts[0], "seconds_p80": cuts[3], "steps": len(seconds),
        **{key: statistics.median(line[key] for line in kept) for key in SHOWN if key in kept[-1]},
        "loss": [line.get("loss", line.get("reward")) for line in lines], "costs": largest,
        "predicted": _predicted(config, asked, source, parallel), "provenance": provenance(),
    }  # fmt: skip


def _predicted(config: RunConfig, asked: Asked, source: Source, parallel: Parallel) -> dict[str, Any] | None:
    """The dry run's figures for this GPU; None for a device that it does not know."""
    if parallel.device.type != "cuda" or parallel.rank:
        return None
    title = torch.cuda.get_device_name(parallel.device).lower()
    known = next((gpu for key, gpu in GPUS.items() if key in title), None)
    if known is None:
        return None
    found: Prediction = predict(config, asked.stage, source, asked.size, parallel.world_size, known)
    return found.table()


def report(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    lines = [
        f"{found['stage']} of {found['model'] or 'the run file'}, random weights, clips of {found['clip']} "
        f"({found['tokens']:,} tokens){', latents given' if found['cached'] else ''}, {found['clips']} in a step, "
        f"{found['ranks']} x {found['device']}",
        "", "| | measured | predicted |", "|---|---|---|",
    ]  # fmt: skip
    predicted = found["predicted"] or {}
    rows = [
        ("median step, s", found["seconds"], predicted.get("seconds"), ".3f"),
        ("MFU", found.get("speed.mfu"), predicted.get("mfu"), ".1%"),
        ("HFU", found.get("speed.hfu"), None, ".1%"),
        ("peak memory, GiB", found.get("memory.peak"), predicted and predicted["total"] / GIB, ".1f"),
    ]
    for title, measured, expected, form in rows:
        shown = [format(value, form) if value else "" for value in (measured, expected)]
        lines.append(f"| {title} | {shown[0]} | {shown[1]} |")
    lines += ["", "| largest costs | calls | s | share |", "|---|---|---|---|"]
    lines += [f"| {c['name']} | {c['calls']} | {c['seconds']:.3f} | {c['share']:.0%} |" for c in found["costs"][:5]]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.train_step")
    parser.add_argument("run", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--clip", required=True)
    parser.add_argument("--stage", default="finetune", choices=tuple(STAGES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    asked = Asked(options.stage, parsed_clip(options.clip), options.steps, options.cached)
    with Parallel.start() as parallel:
        found = measure(options.run, options.overrides, options.model, asked, parallel)
        if parallel.rank == 0:
            print(report(found))
            if options.out is not None:
                name = f"{options.stage}-{options.clip}{'-cached' if options.cached else ''}.json"
                results.write(options.out / "train-step" / name, found)


if __name__ == "__main__":
    main()
