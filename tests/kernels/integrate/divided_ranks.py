"""A Wan whose tokens are divided over the ranks of a process group, run as a program by the tests.

torchrun ... divided_ranks.py FOLDER    every rank writes what it got, of every case, to FOLDER/rank-<r>.pt
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from phys4d.engine.distributed.collectives import leave_group
from phys4d.kernels.integrate.diffusers import accelerate

CASES = {  # heads, timestep for each
    "ulysses, clip": (3, "clip"),
    "ulysses, token": (3, "token"),
    "ulysses, frame": (3, "frame"),
    "ring, frame": (2, "frame"),  # two heads do not divide over three ranks
}
GRID = (4, 2, 5)  # 40 tokens divide neither over three ranks nor at frames
CLIPS = 2


def model(heads: int) -> Any:
    """A tiny Wan with weights that depend on nothing else."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    net = WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=8, in_channels=4, out_channels=4, text_dim=10, freq_dim=8,
        ffn_dim=24, num_layers=3, rope_max_seq_len=16, cross_attn_norm=True,
    )  # fmt: skip
    for parameter in net.parameters():  # norms and tables too: all gradients differ
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def call(timestep_for: str) -> dict[str, Tensor]:
    """The arguments of one call; the first frame has timestep 0 but where there is one timestep for each clip."""
    numbers = torch.Generator().manual_seed(1)
    t, h, w = GRID
    video = torch.randn(CLIPS, 4, t, 2 * h, 2 * w, generator=numbers)
    text = torch.randn(CLIPS, 7, 10, generator=numbers)
    timestep = torch.tensor([300.0, 700.0])
    if timestep_for != "clip":
        timestep = timestep[:, None].repeat(1, t * h * w)
        timestep[:, : h * w] = 0
    return {"hidden_states": video, "timestep": timestep, "encoder_hidden_states": text}


def run(heads: int, timestep_for: str, group: Any = None) -> dict[str, Tensor]:
    """The result, the output of every block, and all gradients."""
    net, given = model(heads), call(timestep_for)
    given["hidden_states"].requires_grad_(True)
    per = "frame" if timestep_for == "frame" else "token"
    accelerated = accelerate(net, timestep_per=per, group=group)
    found: dict[str, Tensor] = {}
    for k, block in enumerate(net.blocks):
        block.register_forward_hook(lambda module, _, out, k=k: found.update({f"block {k}": out.detach()}))
    out = net(**given, return_dict=False)[0]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out * weights).sum().backward()
    assert not accelerated.passed and not accelerated.left
    found |= {f"gradient of {name}": p.grad for name, p in net.named_parameters()}
    return found | {"out": out.detach(), "gradient of the video": given["hidden_states"].grad}


def message(action: Callable[[], Any]) -> str:
    """What a ValueError says."""
    try:
        action()
    except ValueError as refusal:
        return str(refusal)
    return "not refused"


def refusals(group: Any) -> dict[str, str]:
    """What is said to models and calls that a group cannot serve."""
    from diffusers import LTXVideoTransformer3DModel
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    class Other(WanAttnProcessor):
        pass

    ltx = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=1, caption_channels=10,
    )  # fmt: skip
    changed, divided = model(3), model(3)
    changed.blocks[1].attn1.set_processor(Other())
    accelerate(divided, group=group)
    given = call("clip") | {"timestep": torch.zeros(CLIPS, 40)}
    mask = torch.zeros(CLIPS, 1, 40, 40)
    attn = divided.blocks[0].attn1
    return {
        "family": message(lambda: accelerate(ltx, group=group)),
        "parts": message(lambda: accelerate(model(3), parts=["attention"], group=group)),
        "processor": message(lambda: accelerate(changed, group=group)),
        "left as it was": type(changed.blocks[0].attn1.processor).__name__,
        "mask": message(lambda: attn(torch.zeros(CLIPS, 40, 24), None, mask, None)),
        "served": message(lambda: divided(**given)),
    }


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    world = dist.group.WORLD
    found: dict[str, Any] = {"refusals": refusals(world)}
    for name, (heads, timestep_for) in CASES.items():
        found[name] = run(heads, timestep_for, world)
    torch.save(found, Path(sys.argv[1]) / f"rank-{dist.get_rank()}.pt")
    leave_group()


if __name__ == "__main__":
    main()
