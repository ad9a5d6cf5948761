"""Memory and traffic of the training passes of a whole video transformer at its real shape, counted, not computed.

    python -m phys4d.benchmarks.model_memory [--case NAME ...] [--layers N] [--out FILE]

The transformer of Wan2.2-TI2V-5B, batch 1, runs on torch's fake tensors, which have shapes and no data, with diffusers'
own modules ("stock") and as this project trains it ("phys4d"). Every phase consists of two passes:

    frozen   one evaluation without gradients: `pretrain`, the rollouts of `reinforce`, sampling
    lora     one evaluation and its backward pass under a LoRA of rank 16: `finetune`, the updates of `reinforce`

"kept" is the memory that autograd holds between forward and backward, "peak" the maximum of live memory, both without
weights and inputs; "moved" is the sum over all operators of the bytes of their inputs and outputs, which bounds the
time of all operators but matrix products. Temporary memory inside an operator is not counted.
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from phys4d.benchmarks import results
from phys4d.benchmarks.block_memory import Peak, uncollected

GIB = 2**30
LAYERS, RANK, TEXT = 30, 16, 512
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


class Moved(TorchDispatchMode):
    """Sums the bytes of inputs and outputs of every operator that is not a view."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        outputs = [t for t in tree_leaves(made) if isinstance(t, Tensor)]
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        known = {t.untyped_storage()._cdata for t in inputs}
        mutable = function._schema.is_mutable
        if mutable or any(t.untyped_storage()._cdata not in known for t in outputs):
            self.bytes += sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
        return made


def count(case: Case, layers: int, variant: str, trained: bool) -> dict[str, float]:
    """Bytes kept, peak and moved of one pass, in GiB."""
    from diffusers import WanTransformer3DModel
    from peft import LoraConfig

    from phys4d.models.wan.backbone import WanBackbone

    backbone = WanBackbone(WanTransformer3DModel(**WAN, num_layers=layers), (layers // 3, layers - 1))
    backbone.precision = "bf16"
    backbone.requires_grad_(False)
    if trained:
        # peft moves each adapter to its layer's device, where it is already; fake tensors cannot be moved.
        with mock.patch.object(nn.Module, "to", lambda module, *where, **options: module):
            backbone.transformer.add_adapter(LoraConfig(r=RANK, target_modules=list(backbone.lora_targets)))
    if variant == "stock":
        backbone.accelerated.undo()
    noisy, text = torch.randn(1, WAN["in_channels"], *case.latents), torch.randn(1, TEXT, WAN["text_dim"])
    known = [*backbone.parameters(), *backbone.buffers(), noisy, text]

    def forward() -> Tensor:
        prediction = backbone(noisy, torch.full((1,), 0.5), text)
        return prediction.velocity.square().mean() + sum(h.square().mean() for h in prediction.hidden)

    held: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.set_grad_enabled(trained):
        with uncollected(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = forward()
        for tensor in known:
            held.pop(tensor.untyped_storage()._cdata, None)
        kept = sum(storage.nbytes() for storage in held.values())
        held.clear()
        del loss
        with uncollected(), Peak(known) as peak, Moved() as moved:
            loss = forward()
            if trained:
                loss.backward()
    return {"kept_gib": kept / GIB, "peak_gib": peak.most / GIB, "moved_gib": moved.bytes / GIB}


def rows(case: Case, layers: int) -> list[dict[str, Any]]:
    """One row per pass and variant."""
    # Deep copies of a model share one mode. Drop-ins compare rotation tables, and fake tensors have no data to compare.
    one_mode = mock.patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True)
    alike = mock.patch.object(torch, "equal", lambda *tensors: True)
    found = []
    for trained in (False, True):
        for variant in ("stock", "phys4d"):
            with FakeTensorMode(allow_non_fake_inputs=True), one_mode, alike, warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
                figures = count(case, layers, variant, trained)
            pass_ = "lora" if trained else "frozen"
            row = {"case": case.name, "tokens": case.tokens, "layers": layers, "pass": pass_, "variant": variant}
            found.append(row | figures)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: per clip, pass and variant GiB kept, peak and moved, and their shares of the stock model's."""
    keys = ("kept_gib", "peak_gib", "moved_gib")
    titles = "clip | tokens | pass | variant | kept GiB | peak GiB | moved GiB | peak, moved of stock"
    lines = [f"| {titles} |", "|---" * 8 + "|"]
    for row in rows:
        stock = next(r for r in rows if all(r[k] == row[k] for k in ("case", "pass")) and r["variant"] == "stock")
        shares = ", ".join(f"{row[key] / stock[key]:.0%}" for key in keys[1:])
        cells = " | ".join(f"{row[key]:.1f}" for key in keys)
        lines.append(f"| {row['case']} | {row['tokens']:,} | {row['pass']} | {row['variant']} | {cells} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    """Counts and prints; with --out writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"blocks of the transformer (default: {LAYERS})")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    asked = parser.parse_args()
    found = [row for name in asked.case for row in rows(CASES[name], asked.layers)]
    print(table(found))
    if asked.out:
        results.write(asked.out, found)


if __name__ == "__main__":
    main()
