"""Diffusers' context parallelism with the backend phys4d, run as a program by the tests.

torchrun ... backend_ranks.py FOLDER    every rank writes what it got, of every case, to FOLDER/rank-<r>.pt
"""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from phys4d.engine.distributed.collectives import leave_group
from phys4d.kernels.attention import part_of
from phys4d.kernels.integrate.diffusers import backend_report, register_backend

CASES = {  # options of ContextParallelConfig, tokens, whether it has gradients
    "ulysses": ({"ulysses_degree": 2}, 10, True),
    "ulysses, padded keys": ({"ulysses_degree": 2}, 10, True),
    "ring": ({"ring_degree": 2}, 10, True),
    "ring in the tensors' dtype": ({"ring_degree": 2, "convert_to_fp32": False}, 10, True),
    "ulysses of unequal parts": ({"ulysses_degree": 2, "ulysses_anything": True}, 11, False),
    "ring of unequal parts": ({"ring_degree": 2, "ring_anything": True}, 11, False),
}
MODELS = ("ulysses", "ring")


def tensors(tokens: int) -> list[torch.Tensor]:
    """q, k, v and the weights of out in the loss, [2, tokens, 4, 8]."""
    numbers = torch.Generator().manual_seed(tokens)
    return [torch.randn(2, tokens, 4, 8, generator=numbers) for _ in range(4)]


def seen(name: str, tokens: int) -> torch.Tensor | None:
    """Which keys are no padding, [2, tokens], in the case that has any."""
    return torch.arange(tokens) < torch.tensor([[tokens], [6]]) if "padded" in name else None


def wan() -> tuple[Any, dict[str, torch.Tensor]]:
    """A tiny Wan and the arguments of one call: 12 tokens."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    net = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, text_dim=10, freq_dim=8,
        ffn_dim=24, num_layers=2, rope_max_seq_len=16,
    )  # fmt: skip
    numbers = torch.Generator().manual_seed(1)
    call = {
        "hidden_states": torch.randn(2, 4, 2, 4, 6, generator=numbers),
        "timestep": torch.tensor([300.0, 700.0]),
        "encoder_hidden_states": torch.randn(2, 8, 10, generator=numbers),
    }
    return net, call


def parallel(net: Any, options: dict[str, Any]) -> Any:
    """Diffusers' context parallelism of a model, on a machine without an accelerator; returns the configuration."""
    from diffusers import ContextParallelConfig

    cpu = mock.patch.object(torch._C, "_get_accelerator", lambda *_: torch.device("cpu"))
    with cpu, mock.patch.object(torch.accelerator, "device_count", lambda: 1):
        net.enable_parallelism(config=ContextParallelConfig(**options))
    return net._parallel_config


def call(config: Any, tokens: int, gradients: bool, mask: torch.Tensor | None) -> dict[str, Any]:
    """This rank's part of out and of the gradients."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    own = part_of(tokens, dist.get_rank(), 2)
    q, k, v, weights = (t[:, own].clone() for t in tensors(tokens))
    leaves = [t.requires_grad_(gradients) for t in (q, k, v)]
    mask = None if mask is None else mask[:, own].contiguous()
    out = dispatch_attention_fn(q, k, v, mask, backend="phys4d", parallel_config=config)
    found = {"out": out.detach()}
    if gradients:
        (out * weights).sum().backward()
        found |= {name: t.grad for name, t in zip("qkv", leaves, strict=True)}
    return found


def refused(config: Any, **options: Any) -> str:
    """What a call that cannot be served in parallel says."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    q, k, v, _ = tensors(6)
    try:
        dispatch_attention_fn(q, k, v, backend="phys4d", parallel_config=config, **options)
    except ValueError as why:
        return str(why)
    return "not refused"


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    register_backend()
    found: dict[str, Any] = {}
    for name, (options, tokens, gradients) in CASES.items():
        net, given = wan()
        net.set_attention_backend("phys4d")
        config = parallel(net, options)
        backend_report().clear()
        found[name] = call(config, tokens, gradients, seen(name, tokens))
        found[name]["served"] = backend_report().served
        if name in MODELS:
            with torch.no_grad():
                found[name]["model"] = net(**given, return_dict=False)[0]
            found[name]["report"] = str(backend_report())
        mask = torch.ones(6, 6, dtype=torch.bool)
        found[name]["mask"] = refused(config, attn_mask=mask) if "ring" in name else ""
        found[name]["dropout"] = refused(config, dropout_p=0.5)
    torch.save(found, Path(sys.argv[1]) / f"rank-{dist.get_rank()}.pt")
    leave_group()


if __name__ == "__main__":
    main()
