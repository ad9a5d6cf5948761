"""What the training passes of a whole video transformer cost with diffusers' own modules and with ours.

    python -m phys4d.benchmarks.model_memory [--case NAME ...] [--layers N] [--out DIR]

Two passes make up every phase of training:

    frozen   one evaluation without gradients: `pretrain`, the rollouts of `reinforce`, sampling
    lora     one evaluation and its backward pass under a LoRA of rank 16: `finetune`, the updates of `reinforce`

Counted, at the real shape of Wan2.2-TI2V-5B, batch 1, bf16, on tensors that have shapes and no numbers (torch's fake
tensors): "kept" is what autograd keeps between forward and backward, "peak" the most that exists at once, both beyond
weights and inputs; "moved" is the sum over all operators of the bytes of their inputs and outputs, which bounds the
time of what is no matrix product. What an operator takes inside, for as long as it runs, is not seen.

Timed, on the CPU, in turn: the same passes of the demo's transformer (128 channels, 4 blocks, 8 clips), in fp32.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from phys4d.benchmarks import results
from phys4d.benchmarks.timing import interleaved
from phys4d.engine.costs.memory import Kept, Moved, Peak, uncollected
from phys4d.engine.run_folder.provenance import provenance

GIB = 2**30
LAYERS, RANK, TEXT = 30, 16, 512
VARIANTS, PASSES = ("stock", "phys4d"), ("frozen", "lora")
# diffusers' transformer/config.json of Wan2.2-TI2V-5B
WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2), "num_attention_heads": 24, "attention_head_dim": 128, "in_channels": 48,
    "out_channels": 48, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 14336, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A clip of frames x height x width pixels; the autoencoder's strides are 4, 16 and 16."""

    frames: int
    height: int
    width: int

    @property
    def name(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @property
    def latents(self) -> tuple[int, int, int]:
        """(T', H', W') of the latents."""
        return (self.frames - 1) // 4 + 1, self.height // 16, self.width // 16

    @property
    def tokens(self) -> int:
        t, h, w = self.latents
        return t * h * w // 4


CASES = {case.name: case for case in (Case(49, 480, 832), Case(121, 704, 1280))}


def with_adapter(backbone: Any) -> None:
    """Freezes the backbone and adds a trained LoRA."""
    from peft import LoraConfig

    backbone.requires_grad_(False)
    # peft moves each adapter to its layer's device, where it is already; tensors without numbers cannot be moved
    with mock.patch.object(nn.Module, "to", lambda module, *where, **options: module):
        backbone.transformer.add_adapter(LoraConfig(r=RANK, target_modules=list(backbone.lora_targets)))


def work(backbone: Any, noisy: Tensor, text: Tensor, pass_: str) -> Callable[[], Tensor]:
    """The pass as a function that returns its loss; "lora" runs the backward pass too."""

    def evaluate() -> Tensor:
        prediction = backbone(noisy, torch.full((len(noisy),), 0.5), text)
        return prediction.velocity.square().mean() + sum(h.square().mean() for h in prediction.hidden)

    def run() -> Tensor:
        with torch.set_grad_enabled(pass_ == "lora"):
            loss = evaluate()
        if pass_ == "lora":
            loss.backward()
        return loss.detach()

    return run


def count(case: Case, layers: int, variant: str, pass_: str) -> dict[str, float]:
    """GiB kept, peak and moved of one pass."""
    from diffusers import WanTransformer3DModel

    from phys4d.models.wan.backbone import WanBackbone

    backbone: Any = WanBackbone(WanTransformer3DModel(**WAN, num_layers=layers), (layers // 3, layers - 1))
    backbone.precision = "bf16"
    if pass_ == "lora":
        with_adapter(backbone)
    if variant == "stock":
        backbone.accelerated.undo()
    noisy, text = torch.randn(1, WAN["in_channels"], *case.latents), torch.randn(1, TEXT, WAN["text_dim"])
    given = [*backbone.parameters(), *backbone.buffers(), noisy, text]
    run = work(backbone, noisy, text, pass_)
    kept = Kept(given)
    with uncollected(), Peak(given) as peak, Moved() as moved, kept:
        run()
    return {"kept_gib": kept.bytes / GIB, "peak_gib": peak.most / GIB, "moved_gib": moved.bytes / GIB}


def counted(case: Case, layers: int) -> list[dict[str, Any]]:
    """One row per pass and variant, on tensors without numbers."""
    one_mode = mock.patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True)  # of all copies
    alike = mock.patch.object(torch, "equal", lambda *tensors: True)  # drop-ins compare tables: no numbers are there
    rows: list[dict[str, Any]] = []
    for pass_ in PASSES:
        for variant in VARIANTS:
            with FakeTensorMode(allow_non_fake_inputs=True), one_mode, alike, warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
                figures = count(case, layers, variant, pass_)
            named = {"case": case.name, "tokens": case.tokens, "layers": layers, "pass": pass_, "variant": variant}
            rows.append(named | figures)
    return rows


def timed(rounds: int = 40) -> list[dict[str, Any]]:
    """One row per pass and variant of the demo's transformer: milliseconds on this CPU."""
    from phys4d.models.config import ModelConfig
    from phys4d.models.world import create_model

    runs = {}
    for pass_ in PASSES:
        for variant in VARIANTS:
            model = create_model(ModelConfig(), 13, 48, 48, seed=0)
            backbone: Any = model.backbone
            if pass_ == "lora":
                with_adapter(backbone)
            if variant == "stock":
                backbone.accelerated.undo()
            noisy = torch.randn(8, 192, 4, 12, 12, generator=torch.Generator().manual_seed(0))
            runs[pass_, variant] = work(backbone, noisy, model.text(["a ball"] * 8), pass_)
    named = {f"{pass_} {variant}": run for (pass_, variant), run in runs.items()}
    times = interleaved(named, torch.device("cpu"), rounds=rounds, seconds=600)
    return [
        {"pass": pass_, "variant": variant, "ms": t.median, "ms_p20": t.p20, "ms_p80": t.p80}
        for (pass_, variant), t in zip(runs, times.values(), strict=True)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: GiB kept, peak and moved per clip, pass and variant, and the shares of the stock model's."""
    keys = ("kept_gib", "peak_gib", "moved_gib")
    lines = ["| clip | tokens | pass | variant | kept GiB | peak GiB | moved GiB | of stock |", "|---" * 8 + "|"]
    for row in rows:
        stock = next(r for r in rows if (r["case"], r["pass"], r["variant"]) == (row["case"], row["pass"], "stock"))
        shares = ", ".join(f"{row[key] / stock[key]:.0%}" if stock[key] else "-" for key in keys)
        cells = " | ".join(f"{row[key]:.1f}" for key in keys)
        lines.append(f"| {row['case']} | {row['tokens']:,} | {row['pass']} | {row['variant']} | {cells} | {shares} |")
    return "\n".join(lines)


def times_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds per pass and variant."""
    lines = ["| pass | variant | ms (p20, p80) |", "|---|---|---|"]
    lines += [
        f"| {r['pass']} | {r['variant']} | {r['ms']:.0f} ({r['ms_p20']:.0f}, {r['ms_p80']:.0f}) |" for r in rows
    ]
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """Both tables of the page, with versions."""
    origin = results.origin(result["provenance"])
    return f"{table(result['rows'])}\n\n{times_table(result['times'])}\n\n{origin}."


def main() -> None:
    """Counts, times and prints; with --out writes model-memory.json to that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"blocks of the transformer (default: {LAYERS})")
    parser.add_argument("--out", type=Path, help="folder for model-memory.json")
    options = parser.parse_args()
    rows = [row for name in options.case for row in counted(CASES[name], options.layers)]
    times = timed()
    print(f"{table(rows)}\n\n{times_table(times)}")
    if options.out is not None:
        result = {"rows": rows, "times": times, "provenance": provenance()}
        results.write(options.out / "model-memory.json", result)


if __name__ == "__main__":
    main()
