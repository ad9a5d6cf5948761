"""Rollouts of `reinforce` at a model's published size, with random weights, beside diffusers' own transformer.

    python -m phys4d.benchmarks.rollouts RUN.toml --model wan2.2-ti2v-5b --clip 49x480x832 [--batch 4] [--repeats 3]
        [--set reinforce.steps=10] [--out DIR]

Samples are denoised as the stage does it: its steps, guidance, sampler and precision. Three rows, each in turn:

    policy     with both adapters, as in training
    backbone   without adapters
    diffusers  without adapters, by the model's own code: nothing of `phys4d.kernels`, and no autocast; weights and
               latents in the run's precision, as its pipeline holds them. A model that is written here has no such row.

Text tokens and the first latent are given: neither the autoencoder nor the text encoder is there, nor rewards. What a
whole update takes: `python -m phys4d.benchmarks.train_step --stage reinforce`. Exit code 1 where no row was measured.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks import results
from phys4d.benchmarks.train_step import GIB, Asked, put
from phys4d.dry_run.model import Source, source_of, stage_model
from phys4d.dry_run.run import parsed_clip
from phys4d.engine.config import load_toml
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.run_folder.provenance import provenance
from phys4d.models.guidance import Predict, guided
from phys4d.models.interface import Prediction, cached_shape
from phys4d.models.world import WorldModel
from phys4d.stages.flow_sde import rollout
from phys4d.stages.reinforce_config import ReinforceConfig
from phys4d.stages.run_file import RunConfig

STAGE = "reinforce"
ROWS = ("policy", "backbone", "diffusers")


def built(row: str, config: RunConfig, source: Source, asked: Asked, parallel: Parallel) -> WorldModel:
    """The model of a row with weights drawn on its device. ValueError where a model has no code but ours."""
    adapted = row == "policy"
    stages = config.model_copy(update={"stages": config.stages if adapted else config.stages[:1]})
    model = stage_model(stages, STAGE if adapted else stages.stages[0], source, asked.size, source.bare.layers)
    model.requires_grad_(False)
    put(model, config, parallel, asked)
    if row == "diffusers":
        backbone: Any = model.backbone
        if not hasattr(backbone, "accelerated"):
            raise ValueError("this model is written here: diffusers has none")
        backbone.accelerated.undo()
        if backbone.precision == "bf16":
            backbone.transformer.to(torch.bfloat16)
    return model


def predictions(row: str, model: WorldModel) -> Callable[[Tensor, Tensor, Tensor, Tensor], Prediction]:
    """Latents [B, C, T', H', W'], sigma [B], tokens [B, L, D], first latent -> a prediction, as the row computes it."""
    backbone = model.backbone
    if row != "diffusers" or backbone.precision == "fp32":
        return model.predict

    def bare(noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor) -> Prediction:
        output = backbone.evaluate(noisy.bfloat16(), sigma, text.bfloat16(), first.bfloat16()).float()
        return Prediction(*backbone.interpret(output, noisy, sigma), ())

    return bare


def timed(
    row: str, model: WorldModel, table: ReinforceConfig, shapes: tuple[tuple[int, ...], tuple[int, int]], batch: int,
    repeats: int, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Seconds of `repeats` rollouts of `batch` samples after one that is not timed. shapes: of latents and of tokens.
    """
    draw = torch.Generator(device).manual_seed(0)
    noise = torch.randn(batch, *shapes[0], device=device, generator=draw)
    text, none = (torch.randn(batch, *shapes[1], device=device, generator=draw) for _ in range(2))
    predict, first = predictions(row, model), noise[:, :, :1]

    def towards(tokens: Tensor) -> Predict:
        return lambda noisy, sigma: predict(noisy, sigma, tokens, first)

    policy = guided(towards(text), towards(none), table.guidance) if table.guidance > 1 else towards(text)
    seconds: list[float] = []
    for number in range(1 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            if number == 1:
                torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        latents, _ = rollout(
            policy, first[:, :, : model.backbone.held], lambda use: noise, sigmas=model.sigmas(table.steps),
            stochastic_steps=table.stochastic_steps, noise_level=table.noise_level, sampler=table.sampler,
            dimensions=table.dimensions,
        )  # fmt: skip
        assert torch.isfinite(latents).all(), row  # waits for the device
        seconds.append(time.perf_counter() - began)
    middle = statistics.median(seconds[1:])
    peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
    return {"row": row, "seconds": seconds[1:], "rollouts_per_second": batch / middle, "peak_gib": peak}


def measure(
    path: Path, overrides: list[str], name: str | None, asked: Asked, batch: int, repeats: int, parallel: Parallel
) -> dict[str, Any]:
    """All rows, one model at a time; a row that fails for its size is refused with the reason."""
    config = load_toml(path, RunConfig, [*overrides, 'cache="required"'])
    parallel.arrange(config.parallel)
    source, rows = source_of(config, name), []
    table: Any = config.table(STAGE)
    parts = source.bare.build(source.bare.period, (0,), config.seed)
    shapes = cached_shape(parts.codec, asked.size), (parts.text.tokens, parts.text.width)
    for row in ROWS:
        try:
            model = built(row, config, source, asked, parallel)
            rows.append(timed(row, model, table, shapes, batch, repeats, parallel.device))
            del model
        except (ValueError, torch.OutOfMemoryError) as error:
            rows.append({"row": row, "refused": " ".join(str(error).split())})
        if parallel.device.type == "cuda":
            torch.cuda.empty_cache()
    device = parallel.device
    return {
        "run": path.name, "set": overrides, "model": name, "clip": "x".join(map(str, asked.size)), "batch": batch,
        "steps": table.steps, "guidance": table.guidance, "precision": config.precision, "rows": rows,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "provenance": provenance(),
    }  # fmt: skip


def report(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    lines = [
        f"Rollouts of {found['model'] or 'the run file'}, random weights, {found['batch']} clips of {found['clip']}, "
        f"{found['steps']} steps, guidance {found['guidance']:g}, {found['precision']}, {found['device']}",
        "", "| | rollouts/s | s a rollout batch | peak GiB |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in found["rows"]:
        if "refused" in row:
            lines.append(f"| {row['row']} | refused: {row['refused']} | | |")
            continue
        peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
        middle = statistics.median(row["seconds"])
        lines.append(f"| {row['row']} | {row['rollouts_per_second']:.3f} | {middle:.3f} | {peak} |")
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.rollouts")
    parser.add_argument("run", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--clip", required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    asked = Asked(STAGE, parsed_clip(options.clip), options.repeats, cached=True)
    with Parallel.start() as parallel:
        found = measure(
            options.run, options.overrides, options.model, asked, options.batch, options.repeats, parallel
        )
        if parallel.rank == 0:
            print(report(found))
            if options.out is not None:
                results.write(options.out / "rollouts" / f"{found['model'] or STAGE}-{found['clip']}.json", found)
    return 0 if any("seconds" in row for row in found["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
