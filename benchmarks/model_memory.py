"""What the training passes of whole video transformers cost with diffusers' own modules and with ours.

    python -m phys4d.benchmarks.model_memory [--case NAME ...] [--out DIR]

Two passes make up every phase of training:

    frozen   one evaluation without gradients: `pretrain`, the rollouts of `reinforce`, sampling
    lora     one evaluation and its backward pass under a LoRA of rank 16: `finetune`, the updates of `reinforce`

Counted, at the real shapes of the published models, batch 1, bf16, frozen weights held in bf16 as in training, on
tensors that have shapes and no numbers (torch's fake tensors): "kept" is what autograd keeps between forward and
backward, "peak" the most that exists at once, both beyond weights and inputs; "moved" is the sum over all operators of
the bytes of their inputs and outputs, which bounds the time of what is no matrix product. What an operator takes
inside, for as long as it runs, is not seen. A pass is counted with few blocks and extended to all, which are alike.
Open-Sora 1.2 is not among them, since diffusers has no such model: `block_memory` has its blocks.

Timed, on the CPU, in turn, and their peaks counted on real tensors: the same passes of the demo's transformer (128
channels, 4 blocks, 8 clips) and of the published ones with 512 channels and 4 blocks (1 clip), in fp32.
"""

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from phys4d.benchmarks import results
from phys4d.benchmarks.timing import interleaved
from phys4d.engine.costs.memory import Kept, Moved, Peak, uncollected, without_values
from phys4d.engine.run_folder.provenance import provenance

GIB = 2**30
RANK = 16
FEW = (3, 4)  # blocks
VARIANTS, PASSES = ("stock", "phys4d"), ("frozen", "lora")
# diffusers' transformer/config.json of Wan2.2-TI2V-5B
WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2), "num_attention_heads": 24, "attention_head_dim": 128, "in_channels": 48,
    "out_channels": 48, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 14336, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A published model, and clips of frames x height x width pixels."""

    model: str
    frames: int
    height: int
    width: int

    @property
    def clip(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @property
    def name(self) -> str:
        return f"{self.model}:{self.clip}"


CASES = {
    case.name: case
    for case in (
        Case("wan2.2-ti2v-5b", 49, 480, 832), Case("wan2.2-ti2v-5b", 121, 704, 1280),
        Case("cogvideox-5b", 49, 480, 720), Case("wan2.1-t2v-1.3b", 49, 480, 832),
        Case("wan2.1-i2v-14b-480p", 49, 480, 832),
    )
}  # fmt: skip


def with_adapter(backbone: Any) -> None:
    """Freezes the backbone and adds a trained LoRA."""
    from peft import LoraConfig

    backbone.requires_grad_(False)
    # peft moves each adapter to its layer's device, where it is already; tensors without numbers cannot be moved
    with mock.patch.object(nn.Module, "to", lambda module, *where, **options: module):
        backbone.transformer.add_adapter(LoraConfig(r=RANK, target_modules=list(backbone.lora_targets)))


def work(backbone: Any, noisy: Tensor, text: Tensor, first: Tensor | None, pass_: str) -> Callable[[], Tensor]:
    """The pass as a function that returns its loss; "lora" runs the backward pass too.

    backbone, noisy, text, first: as of `Backbone.forward`. pass_: one of `PASSES`.
    """

    def evaluate() -> Tensor:
        prediction = backbone(noisy, torch.full((len(noisy),), 0.5), text, first)
        return prediction.velocity.square().mean() + sum(h.square().mean() for h in prediction.hidden)

    def run() -> Tensor:
        with torch.set_grad_enabled(pass_ == "lora"):
            loss = evaluate()
        if pass_ == "lora":
            loss.backward()
        return loss.detach()

    return run


@cache
def bare_model(model: str) -> Any:
    """A published model without values (`spec.Bare`), by its name."""
    from phys4d.models.config import ModelConfig
    from phys4d.models.registry import published

    spec = next(spec for spec in published() if model in spec.released)
    assert spec.bare is not None
    return spec.bare(ModelConfig(kind=spec.kind, taps=(0,)), model)


def prepared(backbone: Any, variant: str, pass_: str) -> None:
    """Adds what the pass needs, and takes our operators out of the stock variant."""
    if pass_ == "lora":
        with_adapter(backbone)
    else:
        backbone.requires_grad_(False)
    if variant == "stock":
        backbone.accelerated.undo()


def count(case: Case, layers: int, variant: str, pass_: str) -> dict[str, float]:
    """GiB kept, peak and moved of one pass, on tensors without numbers.

    case: what is counted. layers: blocks. variant, pass_: of `VARIANTS` and `PASSES`.
    """
    from phys4d.models.base_weights import hold_frozen_in_bf16
    from phys4d.models.interface import first_frames, latent_shape

    parts = bare_model(case.model).build(layers, (layers // 3, layers - 1), 0)
    backbone, codec = parts.backbone, parts.codec
    backbone.precision = "bf16"
    prepared(backbone, variant, pass_)
    hold_frozen_in_bf16(backbone.transformer, backbone.full_precision)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    without_values(backbone, mode)
    channels, frames, height, width = latent_shape(codec, (case.frames, case.height, case.width))
    image = first_frames(codec, (frames, height, width))
    alike = mock.patch.object(torch, "equal", lambda *tensors: True)  # drop-ins compare tables: no numbers are there
    with mode, alike, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        noisy = torch.randn(1, channels, frames, height, width)
        text = torch.randn(1, parts.text.tokens, parts.text.width)
        first = torch.randn(1, channels, image, height, width) if codec.image_apart else None
        given = [*backbone.parameters(), *backbone.buffers(), noisy, text, *([] if first is None else [first])]
        run = work(backbone, noisy, text, first, pass_)
        kept = Kept(given)
        with uncollected(), Peak(given) as peak, Moved() as moved, kept:
            run()
    return {"kept_gib": kept.bytes / GIB, "peak_gib": peak.most / GIB, "moved_gib": moved.bytes / GIB}


def extended(case: Case, layers: int, variant: str, pass_: str) -> dict[str, float]:
    """As of `count`, from counts with `FEW` blocks: blocks are alike, so that each more costs the same."""
    few, more = (count(case, n, variant, pass_) for n in FEW)
    return {key: few[key] + (layers - FEW[0]) * (more[key] - few[key]) for key in few}


def counted(case: Case) -> list[dict[str, Any]]:
    """One row per pass and variant of the whole transformer, on tensors without numbers."""
    from phys4d.models.interface import Grid

    bare = bare_model(case.model)
    tokens = math.prod(Grid(case.frames, case.height, case.width, bare.token_stride).tokens)
    named = {"model": case.model, "clip": case.clip, "tokens": tokens, "layers": bare.layers}
    return [
        named | {"pass": pass_, "variant": variant} | extended(case, bare.layers, variant, pass_)
        for pass_ in PASSES
        for variant in VARIANTS
    ]


def small_backbones() -> dict[str, tuple[Callable[[], Any], tuple[int, ...], tuple[int, int]]]:
    """By name: what makes a backbone of 4 blocks, the shape of its latents, and (tokens, channels) of its text."""
    from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel

    from phys4d.models.cogvideox import bare as cogvideox
    from phys4d.models.cogvideox.backbone import CogVideoXBackbone
    from phys4d.models.config import ModelConfig
    from phys4d.models.wan.backbone import WanBackbone
    from phys4d.models.wan21 import bare as wan21
    from phys4d.models.wan21.backbone import Wan21Backbone
    from phys4d.models.world import create_model

    small = {"num_attention_heads": 4, "ffn_dim": 2048, "num_layers": 4}
    joint = cogvideox.TRANSFORMER | {"num_attention_heads": 8, "num_layers": 4}
    by_clip = wan21.TRANSFORMERS["wan2.1-t2v-1.3b"] | small
    taps, size = (1, 3), (5, 16, 24)
    demo = create_model(ModelConfig(), 13, 48, 48, seed=0)
    return {
        "demo": (
            lambda: create_model(ModelConfig(), 13, 48, 48, seed=0).backbone, (8, 192, 4, 12, 12),
            (demo.text.tokens, demo.text.width),
        ),
        "wan2.2": (
            lambda: WanBackbone(WanTransformer3DModel.from_config(WAN | small), taps), (1, 48, *size), (512, 4096),
        ),
        "wan2.1": (
            lambda: Wan21Backbone(WanTransformer3DModel.from_config(by_clip), taps), (1, 16, *size), (512, 4096),
        ),
        "cogvideox": (
            lambda: CogVideoXBackbone(CogVideoXTransformer3DModel.from_config(joint).float(), taps), (1, 16, *size),
            (226, 4096),
        ),
    }  # fmt: skip


def timed(rounds: int = 7, seconds: float = 30) -> list[dict[str, Any]]:
    """One row per small backbone, pass and variant: milliseconds on this CPU, and the peak in MiB beyond weights."""
    rows = []
    for model, (make, shape, words) in small_backbones().items():
        runs, peaks = {}, []
        for pass_ in PASSES:
            for variant in VARIANTS:
                torch.manual_seed(0)
                backbone = make()
                prepared(backbone, variant, pass_)
                noisy, text = torch.randn(shape), torch.randn(shape[0], *words)
                runs[f"{pass_} {variant}"] = run = work(backbone, noisy, text, None, pass_)
                run()  # makes what is made once, gradients among it
                with uncollected(), Peak([*backbone.parameters(), *backbone.buffers(), noisy, text]) as peak:
                    run()
                peaks.append(peak.most / 2**20)
        times = interleaved(runs, torch.device("cpu"), rounds=rounds, seconds=seconds)
        for (name, t), most in zip(times.items(), peaks, strict=True):
            pass_, variant = name.split()
            named = {"model": model, "pass": pass_, "variant": variant, "peak_mib": most}
            rows.append(named | {"ms": t.median, "ms_p20": t.p20, "ms_p80": t.p80})
    return rows


def _stock(rows: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    """The row of the stock model beside a row."""
    same = [key for key in ("model", "clip", "pass") if key in row]
    return next(r for r in rows if r["variant"] == "stock" and all(r[key] == row[key] for key in same))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: GiB kept, peak and moved per model, clip, pass and variant, and the shares of the stock model's."""
    keys = ("kept_gib", "peak_gib", "moved_gib")
    header = "| model | clip | tokens | pass | variant | kept GiB | peak GiB | moved GiB | of stock |"
    lines = [header, "|---" * 9 + "|"]
    for row in rows:
        stock = _stock(rows, row)
        shares = ", ".join(f"{row[key] / stock[key]:.0%}" if stock[key] else "-" for key in keys)
        named = f"{row['model']} | {row['clip']} | {row['tokens']:,} | {row['pass']} | {row['variant']}"
        lines.append(f"| {named} | {' | '.join(f'{row[key]:.1f}' for key in keys)} | {shares} |")
    return "\n".join(lines)


def times_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds and peak MiB per small backbone, pass and variant, and the shares of the stock model's."""
    lines = ["| small model | pass | variant | ms (p20, p80) | peak MiB | of stock |", "|---" * 6 + "|"]
    for row in rows:
        stock = _stock(rows, row)
        shares = f"{row['ms'] / stock['ms']:.0%}, {row['peak_mib'] / stock['peak_mib']:.0%}"
        time = f"{row['ms']:.0f} ({row['ms_p20']:.0f}, {row['ms_p80']:.0f})"
        lines.append(
            f"| {row['model']} | {row['pass']} | {row['variant']} | {time} | {row['peak_mib']:.0f} | {shares} |"
        )
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """Both tables of the page, with versions."""
    origin = results.origin(result["provenance"])
    return f"{table(result['rows'])}\n\n{times_table(result['times'])}\n\n{origin}."


def main() -> None:
    """Counts, times and prints; with --out writes model-memory.json to that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, help="folder for model-memory.json")
    options = parser.parse_args()
    rows = [row for name in options.case for row in counted(CASES[name])]
    times = timed()
    print(f"{table(rows)}\n\n{times_table(times)}")
    if options.out is not None:
        result = {"rows": rows, "times": times, "provenance": provenance()}
        results.write(options.out / "model-memory.json", result)


if __name__ == "__main__":
    main()
