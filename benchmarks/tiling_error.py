"""How far decoding in parts of a frame (`phys4d generate --vae-tiling`) is from decoding whole frames.

    python -m phys4d.benchmarks.tiling_error [--case NAME ...] [--out DIR]

Autoencoders with their published layers and random weights from a fixed seed, fp32, on the CPU; "an eighth" has so many
of the published channels. A clip of moving waves and an edge is encoded, and decoded whole and in bands or tiles of the
size that `generate` takes. "rms" and "most" are the root of the mean and the largest of squared differences, as shares
of the deviation of the whole decode. "seconds" are those of the decode in parts over those of the whole. Published
weights were not at hand: how much a norm over a tile differs from one over whole frames depends on them.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks import results
from phys4d.engine.run_folder.provenance import provenance
from phys4d.models.cogvideox.codec import CogVideoXCodec
from phys4d.models.cogvideox.layers import in_less_memory
from phys4d.models.wan.bare import VAE as WAN
from phys4d.models.wan.codec import WanCodec

COGVIDEOX: dict[str, Any] = {
    "block_out_channels": [128, 256, 256, 512], "norm_num_groups": 32, "latent_channels": 16, "scaling_factor": 0.7
}  # fmt: skip
EIGHTH: dict[str, Any] = {"block_out_channels": [16, 32, 32, 64], "norm_num_groups": 4}
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "CogVideoX, an eighth": (COGVIDEOX | EIGHTH, (9, 320, 480)),
    "CogVideoX": (COGVIDEOX, (1, 320, 480)),
    "Wan2.2, an eighth": (WAN | {"base_dim": 20, "decoder_base_dim": 32}, (5, 480, 832)),
    "Wan2.1, an eighth": ({"base_dim": 12, "z_dim": 16}, (5, 480, 832)),
}
"""Settings of the autoencoder, and frames, height and width of the clip."""


def codec_of(settings: dict[str, Any]) -> Any:
    """The codec of an autoencoder with random weights, which depend on nothing else."""
    from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan

    kind, codec = (AutoencoderKLWan, WanCodec) if "z_dim" in settings else (AutoencoderKLCogVideoX, CogVideoXCodec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = kind.from_config(settings).eval().requires_grad_(False)
    made = codec(settings)
    made._modules["vae"] = in_less_memory(vae) if codec is CogVideoXCodec else vae
    return made


def moving_waves(frames: int, height: int, width: int) -> Tensor:
    """A clip [1, 3, frames, height, width] in [-1, 1]: waves that move, brighter behind an edge that moves."""
    t, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in (frames, height, width)), indexing="ij")
    edge = torch.where(x > width / 3 + 4 * t, 0.4, -0.4)
    moving = ((3, 9), (-2, 23), (1, 61))  # pixels a frame, and pixels of a radian
    waves = [0.5 * torch.sin((x + speed * t) / length + y / (2 * length)) for speed, length in moving]
    return torch.stack([edge + wave for wave in waves])[None]


@torch.no_grad()
def measured(case: str) -> dict[str, Any]:
    """One row."""
    settings, size = CASES[case]
    codec = codec_of(settings)
    latents, decoded, seconds = codec.encode(moving_waves(*size)), [], []
    for _ in range(2):
        start = time.perf_counter()
        decoded.append(codec.decode(latents))
        seconds.append(time.perf_counter() - start)
        codec.use_tiling()
    whole, parts = decoded
    difference, deviation = (parts - whole).abs(), float(whole.std())
    return {
        "case": f"{case}, {'x'.join(map(str, size))}",
        "rms": float(difference.square().mean().sqrt()) / deviation,
        "most": float(difference.max()) / deviation,
        "seconds": seconds[1] / seconds[0],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row for each case."""
    lines = ["| autoencoder and clip | rms | most | seconds |", "|---|---|---|---|"]
    for row in rows:
        figures = ["0" if row[name] == 0 else f"{row[name]:.2g}" for name in ("rms", "most")]
        lines.append(f"| {row['case']} | {' | '.join(figures)} | {row['seconds']:.1f} |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page, with versions."""
    return f"{table(result['rows'])}\n\nMeasured with {results.version(result['provenance'])}."


def main() -> None:
    """Measures, prints the table, and with --out writes tiling-error.json to that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, help="folder for tiling-error.json")
    options = parser.parse_args()
    rows = []
    for name in options.case:
        rows.append(measured(name))
        print(table(rows[-1:]), flush=True)
    if options.out is not None:
        results.write(options.out / "tiling-error.json", {"rows": rows, "provenance": provenance()})


if __name__ == "__main__":
    main()
