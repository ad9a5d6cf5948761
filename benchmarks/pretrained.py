"""What the trained model that comes with the package can do, on scenes that it never saw.

    python -m phys4d.benchmarks.pretrained runs/pretrained [--model phys4d:small] [--out benchmarks/results]

simulates two sets of scenes into that folder, the demo's test scenes and scenes of all nine categories, and measures

    codec       PSNR in dB of clips that are encoded and decoded: of all frames, and of first frames alone
    generated   PSNR in dB of clips generated from the first frame and the caption, at frames 4, 8 and 12, of all pixels
                and of those that have changed since the first frame in the true clip; beside it the first frame
                repeated
    overlap     intersection over union of what has changed by the last frame, in the generated and in the true clip
    loss        flow-matching loss on the true clips, mean over ten noise levels of the training distribution
    distance    energy distance (Szekely and Rizzo 2013) of the sets of true and generated clips, 0 for equal
                distributions. Features of a clip: mean and deviation over the picture of each channel's change since
                the first latent frame, in each later frame. Beside it that of two halves of the true clips, which is 0
                in expectation, and of the first frame repeated.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks import results
from phys4d.clips import Clips
from phys4d.demo import load_recipe
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.run_folder.provenance import provenance
from phys4d.generate.opening import open_model
from phys4d.models.placement import place
from phys4d.models.shipped import opened
from phys4d.models.world import WorldModel
from phys4d.rewards.moving_chamfer import changed
from phys4d.rewards.pixel_error import CHANGED
from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.generate import SimulateConfig, simulate

FRAMES = (4, 8, 12)
NINE = SimulateConfig(
    categories=tuple(CATEGORIES), clutter="none", clips=90, seed=9, frames=13, fps=20, truth=False
)
LEVELS, BATCH = 10, 10


def psnr(video: Tensor, true: Tensor, frame: int, mask: Tensor | None = None) -> Tensor:
    """PSNR in dB, [B], of one frame; mask: bool [B, T, H, W], of the pixels that count, NaN where there are none."""
    error = ((video - true)[:, :, frame] / 2).square().mean(1)
    counted = torch.ones_like(error, dtype=torch.bool) if mask is None else mask[:, frame]
    mean = (error * counted).sum((1, 2)) / counted.sum((1, 2))
    return -10 * mean.clamp_min(1e-8).log10()


def overlap(video: Tensor, true: Tensor) -> Tensor:
    """Intersection over union, [B], of what has changed by the last frame; NaN where nothing has in either."""
    made, real = (changed(clip, CHANGED)[:, -1].flatten(1) for clip in (video, true))
    return (made & real).sum(1) / (made | real).sum(1)


def features(latents: Tensor) -> Tensor:
    """[B, F]: mean and deviation over the picture of each channel's change since the first latent frame, in each later
    frame."""
    change = (latents[:, :, 1:] - latents[:, :, :1]).flatten(3)
    return torch.cat([change.mean(3), change.std(3)], 1).flatten(1)


def energy_distance(x: Tensor, y: Tensor, *, paired: bool) -> float:
    """Unbiased energy distance of two sets of features [N, F], on the scale at which those of `y` have deviation 1.

    paired: whether row i of both is of one scene; these pairs, which are closer than independent ones, are left out.
    """
    scale = y.double().std(0).clamp_min(1e-6) * y.shape[1] ** 0.5
    x, y = x.double() / scale, y.double() / scale

    def apart(a: Tensor, b: Tensor, without_same: bool) -> Tensor:
        distance = torch.cdist(a, b)
        if not without_same:
            return distance.mean()
        return (distance.sum() - distance.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(2 * apart(x, y, paired) - apart(x, x, True) - apart(y, y, True))


@torch.no_grad()
def measured(model: WorldModel, data: Path) -> dict[str, Any]:
    """All figures of a model on one set of scenes."""
    clips, columns = Clips(data, (), model.text, model.grid), dict[str, list[Tensor]]()
    known: dict[str, list[Tensor]] = {"true": [], "generated": [], "still": []}

    def add(name: str, values: Tensor) -> None:
        columns.setdefault(name, []).append(values)

    for start in range(0, len(clips), BATCH):
        scenes = range(start, min(start + BATCH, len(clips)))
        batch = clips.collate(scenes, [(0, "pretrained", scene) for scene in scenes])
        clean = batch.encoded(model.codec)
        first, noise, video = batch.first(model.codec, clean), batch.normal_like(clean, "start"), batch.video
        latents, still = model.generate(first, batch.text, noise), video[:, :, :1].expand_as(video)
        decoded, made = (model.codec.decode(z).clamp(-1, 1) for z in (clean, latents))
        moved = changed(video, CHANGED)
        add("codec", torch.stack([psnr(decoded, video, t) for t in range(video.shape[2])]).mean(0))
        add("codec first", psnr(decoded, video, 0))
        for frame in FRAMES:
            for name, clip in (("codec", decoded), ("generated", made), ("still", still)):
                add(f"{name} {frame}", psnr(clip, video, frame))
                add(f"{name} changed {frame}", psnr(clip, video, frame, moved))
        add("overlap", overlap(made, video))
        for level in range(LEVELS):
            sigma = model.training_sigma(torch.full((len(scenes),), (level + 0.5) / LEVELS))
            noise = batch.normal_like(clean, f"level {level}")
            prediction = model.predict(model.noised(clean, noise, sigma), sigma, batch.text, first)
            add("loss", model.backbone.diffusion_loss(prediction, clean, noise, sigma)[None])
        for name, z in (("true", clean), ("generated", latents), ("still", model.codec.encode(still))):
            known[name].append(features(z))
    of = {name: torch.cat(parts) for name, parts in known.items()}
    distances = {
        "generated": energy_distance(of["generated"], of["true"], paired=True),
        "still": energy_distance(of["still"], of["true"], paired=True),
        "true halves": energy_distance(*of["true"].chunk(2), paired=False),
    }
    means = {name: float(torch.cat(parts).nanmean()) for name, parts in columns.items()}
    return {"scenes": len(clips), "figures": means, "distances": distances}


def run(folder: Path, name: Path) -> dict[str, Any]:
    """Simulates what is missing below `folder`, and measures the model there or of that name."""
    sets = {"demo's test scenes": load_recipe(None, []).simulate.test, "all nine categories": NINE}
    found = {}
    for place_of, (title, settings) in zip(("demo", "nine"), sets.items(), strict=True):
        if not (folder / place_of / "index.parquet").exists():
            simulate(settings, folder / place_of, workers=2)
        model = open_model(name, None, settings.frames, settings.size).model.eval()
        place(model, Parallel.alone())
        found[title] = measured(model, folder / place_of) | {"steps": model.config.sampling_steps}
    files = sorted(opened(name).rglob("*.safetensors"))
    return {"model": str(name), "bytes": sum(file.stat().st_size for file in files), "sets": found}


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each figure, a column for each set of scenes."""
    sets: Iterable[dict[str, Any]] = result["sets"].values()
    lines = ["| | " + " | ".join(f"{title} ({one['scenes']})" for title, one in result["sets"].items()) + " |"]
    lines.append("|---" * (len(result["sets"]) + 1) + "|")

    def row(title: str, cells: Iterable[str]) -> None:
        lines.append(f"| {title} | {' | '.join(cells)} |")

    def horizon(name: str) -> Iterable[str]:
        return (" / ".join(f"{one['figures'][f'{name} {frame}']:.1f}" for frame in FRAMES) for one in sets)

    row("codec, PSNR dB: all frames, first", (
        f"{one['figures']['codec']:.1f}, {one['figures']['codec first']:.1f}" for one in sets))  # fmt: skip
    frames = " / ".join(map(str, FRAMES))
    for name, title in (("generated", "generated"), ("codec", "*true, through the codec*"), ("still", "*first frame*")):
        row(f"{title}: PSNR dB at frames {frames}", horizon(name))
        row(f"{title}: of what changed", horizon(f"{name} changed"))
    row("overlap of what changed, last frame", (f"{one['figures']['overlap']:.2f}" for one in sets))
    row("flow-matching loss", (f"{one['figures']['loss']:.3f}" for one in sets))
    titles = {"generated": "generated", "true halves": "*halves of the truth*", "still": "*first frame*"}
    for name, title in titles.items():
        row(f"{title}: energy distance", (f"{one['distances'][name]:.3f}" for one in sets))
    steps = next(iter(sets))["steps"]
    return "\n".join([*lines, "", f"{steps} steps of sampling; {results.version(result['provenance'])}."])


def main() -> None:
    """Measures, prints the table, and with --out writes pretrained.json to that folder."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.pretrained", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the scenes are kept")
    parser.add_argument("--model", type=Path, default=Path("phys4d:small"), help="default: phys4d:small")
    parser.add_argument("--out", type=Path, help="folder for pretrained.json")
    options = parser.parse_args()
    result = run(options.folder, options.model) | {"provenance": provenance()}
    print(table(result))
    if options.out is not None:
        results.write(options.out / "pretrained.json", result)


if __name__ == "__main__":
    main()
