"""How far decoding in tiles (`phys4d generate --vae-tiling`) is from decoding whole frames.

    python -m phys4d.benchmarks.tiling_error [--case NAME ...] [--out DIR]

The autoencoders of CogVideoX and Wan2.2-TI2V-5B with their published layers and an eighth of their channels, random
weights from a fixed seed, fp32, on the CPU. A clip of moving waves and an edge, of the published rows and columns, is
encoded, and decoded whole and in tiles of the published number of pixels. "rms" and "most" are the root of the mean and
the largest of squared differences, as shares of the deviation of the whole decode; "off by 1" is the share of values
whose bytes differ, were that deviation a fifth of their range. Published weights were not at hand.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks import results
from phys4d.engine.run_folder.provenance import provenance
from phys4d.models.cogvideox.codec import CogVideoXCodec
from phys4d.models.cogvideox.layers import in_less_memory
from phys4d.models.wan.bare import VAE as WAN_VAE
from phys4d.models.wan.codec import WanCodec

CASES = {"cogvideox-5b": (9, 480, 720), "wan2.2-ti2v-5b": (5, 480, 832)}
_COGVIDEOX: dict[str, Any] = {
    "block_out_channels": [16, 32, 32, 64], "norm_num_groups": 4, "latent_channels": 16, "scaling_factor": 0.7
}  # fmt: skip
_WAN = WAN_VAE | {"base_dim": 20, "decoder_base_dim": 32}


def codec_of(case: str) -> Any:
    """The codec of a case, with random weights that depend on nothing else."""
    from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec: Any
        if case == "cogvideox-5b":
            codec, vae = CogVideoXCodec(_COGVIDEOX), in_less_memory(AutoencoderKLCogVideoX(**_COGVIDEOX))
        else:
            codec, vae = WanCodec(_WAN), AutoencoderKLWan.from_config(_WAN)
    codec._modules["vae"] = vae.eval().requires_grad_(False)
    return codec


def moving_waves(frames: int, height: int, width: int) -> Tensor:
    """A clip [1, 3, frames, height, width] in [-1, 1]: waves that move, brighter behind an edge that moves."""
    t, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in (frames, height, width)), indexing="ij")
    edge = torch.where(x > width / 3 + 4 * t, 0.4, -0.4)
    moving = ((3, 9), (-2, 23), (1, 61))  # pixels a frame, and pixels of a radian
    waves = [0.5 * torch.sin((x + speed * t) / length + y / (2 * length)) for speed, length in moving]
    return torch.stack([edge + wave for wave in waves])[None]


def measured(case: str, size: tuple[int, int, int]) -> dict[str, Any]:
    """One row of a case for clips of a size (frames, height, width)."""
    codec = codec_of(case)
    latents = codec.encode(moving_waves(*size))
    whole = codec.decode(latents)
    codec.use_tiling()
    difference, deviation = (codec.decode(latents) - whole).abs(), float(whole.std())
    byte = deviation * 5 / 255
    return {
        "case": f"{case} {'x'.join(map(str, size))}",
        "rms": float(difference.square().mean().sqrt()) / deviation,
        "most": float(difference.max()) / deviation,
        "off_by_1": float((difference > byte).float().mean()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row for each case."""
    lines = ["| autoencoder and clip | rms | most | off by 1 |", "|---|---|---|---|"]
    for row in rows:
        assert math.isfinite(row["rms"])
        lines.append(f"| {row['case']} | {row['rms']:.1%} | {row['most']:.0%} | {row['off_by_1']:.0%} |")
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
    rows = [measured(name, CASES[name]) for name in options.case]
    print(table(rows))
    if options.out is not None:
        results.write(options.out / "tiling-error.json", {"rows": rows, "provenance": provenance()})


if __name__ == "__main__":
    main()
