"""A Wan, and a CogVideoX, whose tokens are divided over the ranks of a process group, run as a program by the tests.

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
JOINT = {  # of CogVideoX: heads, text tokens, whether the video is rotated, one projection for queries, keys and values
    "joint, ulysses": (3, 7, True, False),
    "joint, ring": (2, 7, True, False),
    "joint, one projection": (3, 7, True, True),
    "joint, not rotated": (3, 7, False, False),
    "joint, a rank of text alone": (3, 60, True, False),
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


def joint_model(heads: int, text: int, rotated: bool) -> Any:
    """A tiny CogVideoX with weights that depend on nothing else."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    t, h, w = GRID
    net = CogVideoXTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=10, num_layers=3, sample_width=2 * w, sample_height=2 * h, sample_frames=4 * t - 3,
        max_text_seq_length=text, use_rotary_positional_embeddings=rotated,
    )  # fmt: skip
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def joint_call(text: int, rotated: bool) -> dict[str, Any]:
    """The arguments of one call of it."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    numbers = torch.Generator().manual_seed(1)
    t, h, w = GRID
    tables = get_3d_rotary_pos_embed(16, ((0, 1), (h, w + 1)), (h, w), t) if rotated else None
    return {
        "hidden_states": torch.randn(CLIPS, t, 4, 2 * h, 2 * w, generator=numbers),
        "encoder_hidden_states": torch.randn(CLIPS, text, 10, generator=numbers),
        "timestep": torch.tensor([300, 700]), "image_rotary_emb": tables,
    }  # fmt: skip


def run_joint(heads: int, text: int, rotated: bool, fused: bool, group: Any = None) -> dict[str, Tensor]:
    """As `run`, of a CogVideoX; of what a block gives, text stands before video where one rank has both whole."""
    net = joint_model(heads, text, rotated)
    if fused:
        net.fuse_qkv_projections()
    found = evaluated(net, net.transformer_blocks, joint_call(text, rotated), accelerate(net, group=group))
    for k in range(3 if group is None else 0):
        found[f"block {k}"] = torch.cat(found[f"block {k}"][::-1], 1)
    return found


def run(heads: int, timestep_for: str, group: Any = None) -> dict[str, Tensor]:
    """The result, the output of every block, and all gradients."""
    net, per = model(heads), "frame" if timestep_for == "frame" else "token"
    return evaluated(net, net.blocks, call(timestep_for), accelerate(net, timestep_per=per, group=group))


def evaluated(net: Any, blocks: Any, given: dict[str, Any], accelerated: Any) -> dict[str, Any]:
    """What a call of the model gives."""
    given["hidden_states"].requires_grad_(True)
    found: dict[str, Any] = {}
    for k, block in enumerate(blocks):
        block.register_forward_hook(lambda module, _, out, k=k: found.update({f"block {k}": out}))
    out = net(**given, return_dict=False)[0]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out * weights).sum().backward()
    assert not accelerated.passed and not accelerated.left
    for k in range(len(blocks)):
        made = found[f"block {k}"]
        found[f"block {k}"] = tuple(t.detach() for t in made) if isinstance(made, tuple) else made.detach()
    found |= {f"gradient of {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
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
    changed, divided, hooked = model(3), model(3), joint_model(3, 7, True)
    accelerate(hooked, group=group)
    hooked.transformer_blocks[1].norm1.norm.register_forward_hook(lambda *given: None)
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
        "hooked norm": message(lambda: hooked(**joint_call(7, True))),
        "served": message(lambda: divided(**given)),
    }


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    world = dist.group.WORLD
    found: dict[str, Any] = {"refusals": refusals(world)}
    for name, (heads, timestep_for) in CASES.items():
        found[name] = run(heads, timestep_for, world)
    for name, case in JOINT.items():
        found[name] = run_joint(*case, world)
    torch.save(found, Path(sys.argv[1]) / f"rank-{dist.get_rank()}.pt")
    leave_group()


if __name__ == "__main__":
    main()
