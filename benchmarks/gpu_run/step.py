"""A training step of a video transformer through the engine: stock, and with our operators.

The transformer has the width, heads and feed-forward layer of Wan2.2-TI2V-5B and few of its 30 blocks, random weights,
and a LoRA of rank 16; the clip has 121 frames of 704 x 1280 pixels. It needs what training needs; where that cannot be
imported, the case is refused with the reason.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LAYERS, RANK, WORDS = 4, 16, 512
STEPS, WARM_UP = 10, 3
VARIANTS = ("stock", "phys4d")
LATENTS = (31, 44, 80)
SMALL = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "text_dim": 32, "freq_dim": 32}
SMALL_LATENTS = (3, 4, 4)


def of_case(name: str, device: torch.device, small: bool) -> tuple[str, dict[str, Any]]:
    """The state of the case and its rows, one per variant; small: few channels and tokens."""
    try:
        rows = [_row(name, variant, device, small) for variant in VARIANTS]
    except ImportError as fault:
        return "refused", {"reason": f"training cannot be imported ({fault}); pip install 'phys4d[train]'"}
    return "done", {"rows": rows}


class _Objective:
    """The mean square of the velocity of one fixed clip."""

    name = "step"

    def __init__(self, backbone: Any, noisy: Tensor, text: Tensor) -> None:
        self.backbone, self.noisy, self.text = backbone, noisy, text

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.backbone.transformer}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.backbone.parameters() if p.requires_grad], "lr_scale": 1.0}]

    def update(self, step: int, optimizer_step: Callable[..., Tensor]) -> dict[str, Tensor | float]:
        sigma = torch.full((len(self.noisy),), 0.5, device=self.noisy.device)
        losses: list[Tensor] = []

        def loss() -> Tensor:
            losses.append(self.backbone(self.noisy, sigma, self.text).velocity.square().mean())
            return losses[-1]

        optimizer_step([loss])
        return {"loss": losses[0].detach()}

    def samples(self) -> tuple[str, ...]:
        return ()


def _row(name: str, variant: str, device: torch.device, small: bool) -> dict[str, Any]:
    from diffusers import WanTransformer3DModel

    from phys4d.benchmarks import model_memory
    from phys4d.engine.config import Config
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.engine.run_folder.run import Run
    from phys4d.engine.training.loop import LoopConfig, OptimizerConfig, train
    from phys4d.models.wan.backbone import WanBackbone

    shape = model_memory.WAN | (SMALL if small else {})
    layers, latents = (2, SMALL_LATENTS) if small else (LAYERS, LATENTS)
    torch.manual_seed(0)
    with device:
        backbone: Any = WanBackbone(WanTransformer3DModel(**shape, num_layers=layers), ())
        noisy = torch.randn(1, shape["in_channels"], *latents)
        text = torch.randn(1, WORDS if not small else 8, shape["text_dim"])
    backbone.precision = "bf16"
    model_memory.with_adapter(backbone)
    if variant == "stock":
        backbone.accelerated.undo()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        with Run.create(folder, Config(), resume=False) as run:
            train(
                _Objective(backbone, noisy, text), optimizer=OptimizerConfig(learning_rate=1e-5),
                loop=LoopConfig(steps=STEPS, log_every=1), run=run, parallel=Parallel.alone(device), resume=False,
            )  # fmt: skip
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    seconds = [line["seconds"] for line in found][WARM_UP:]
    cuts = statistics.quantiles(seconds, n=5, method="inclusive")
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    return {
        "case": name, "backend": variant, "part": "step", "ms": 1e3 * statistics.median(seconds),
        "ms_p20": 1e3 * cuts[0], "ms_p80": 1e3 * cuts[3], "rounds": len(seconds), "peak_mb": peak,
        "layers": layers, "tokens": latents[0] * latents[1] * latents[2] // 4, "loss": found[-1]["loss"],
    }  # fmt: skip
