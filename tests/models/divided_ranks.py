"""One rank of two: what backbones give whose tokens are divided over both, and what one process does.

torchrun --nproc-per-node 2 divided_ranks.py FOLDER CASES    each rank writes FOLDER/rank-<r>.pt, rank 0 also
FOLDER/alone.pt; CASES: "eager" or "compiled"
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from phys4d.engine.distributed.collectives import leave_group
from phys4d.engine.training import compilation
from phys4d.engine.training.activations import checkpoint_activations
from phys4d.engine.training.compilation import compile_blocks
from phys4d.models.backbone import Backbone
from phys4d.models.cogvideox.backbone import CogVideoXBackbone
from phys4d.models.config import ModelConfig
from phys4d.models.opensora.backbone import OpenSoraBackbone
from phys4d.models.opensora.transformer import STDiT3
from phys4d.models.world import create_model

CASES = {  # the backbone, heads, how attention exchanges tokens, checkpointing
    "cogvideox, ulysses": ("cogvideox", 2, "ulysses", "full"),
    "cogvideox, three heads": ("cogvideox", 3, "auto", "none"),
    "cogvideox, image": ("image", 2, "auto", "none"),
    "opensora, ulysses": ("opensora", 2, "ulysses", "full"),
    "opensora, three heads": ("opensora", 3, "auto", "none"),
}
COMPILED = {  # as two graphs for each kind of block: of the first, and of those behind it; the last is another
    "wan, compiled": ("tiny", 2, "ulysses", "none"),
    "cogvideox, compiled": ("cogvideox", 2, "ulysses", "none"),
    "opensora, compiled": ("opensora", 2, "ulysses", "none"),
}
SIZE = (3, 6, 10)  # of latents: 45 tokens, 15 in a frame, with 7 or 8 of text; three divide over no two ranks
OTHER = (1, 10, 6)  # a second size of clips, for what was compiled
TEXT = 8
WIDTH = 12


def backbone(kind: str, heads: int) -> Backbone:
    """A tiny one that taps its first and its last block, with weights that depend on nothing else."""
    torch.manual_seed(0)
    if kind == "tiny":
        return create_model(ModelConfig(width=32 * heads, layers=3, taps=(0, 2)), 5, 48, 80, seed=0).backbone
    if kind == "opensora":
        settings = {"caption_channels": WIDTH, "model_max_length": TEXT}
        made: Backbone = OpenSoraBackbone(STDiT3(hidden_size=16 * heads, depth=2, num_heads=heads, **settings), (0, 3))
    else:
        net = CogVideoXTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=16, in_channels=8 if kind == "image" else 4, out_channels=4,
            time_embed_dim=8, text_embed_dim=WIDTH, num_layers=3, sample_width=SIZE[2], sample_height=SIZE[1],
            sample_frames=9, max_text_seq_length=TEXT, use_rotary_positional_embeddings=True,
            use_learned_positional_embeddings=kind == "image",
        )  # fmt: skip
        made = CogVideoXBackbone(net, (0, 2), image_scale=0.7)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def inputs(kind: str, size: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Latents, text, first frame, and the generator that they were drawn from."""
    draw = torch.Generator().manual_seed(1)
    channels, width = (192, 64) if kind == "tiny" else (4, WIDTH)
    noisy = torch.randn(2, channels, *size, generator=draw).requires_grad_()
    first, text = torch.randn(2, 4, 1, *size[1:], generator=draw), torch.randn(2, TEXT, width, generator=draw)
    text[0, 5:] = 0  # of Open-Sora: a caption of five tokens
    return noisy, text.requires_grad_(), first, draw


def found(
    kind: str, heads: int, context: Any, checkpointing: Any, group: Any, compiled: bool = False, both: bool = False
) -> dict[str, Tensor]:
    """Velocity, tapped tokens, and the gradients of weights, latents and text; of a group the mean over its ranks.
    both: whether clips of another size are evaluated too, and those of the first without gradients."""
    made = backbone(kind, heads)
    made.use_attention("auto", group, context)
    if compiled:
        torch._dynamo.reset()  # one process compiles one model
        compile_blocks(made.blocks, checkpointing, by_size=True)
    checkpoint_activations(made.blocks, checkpointing, [])
    noisy, text, first, draw = inputs(kind, SIZE)
    sigma = torch.tensor([0.3, 0.9])
    prediction = made(noisy, sigma, text, first)
    results = {"velocity": prediction.velocity, **{f"tap {k}": x for k, x in enumerate(prediction.hidden)}}
    if both:
        others = inputs(kind, OTHER)
        results["velocity of another size"] = made(others[0], sigma, others[1], others[2]).velocity
    sum((x * torch.randn(x.shape, generator=draw)).sum() for x in results.values()).backward()
    gradients = {name: p.grad for name, p in made.named_parameters()} | {"latents": noisy.grad, "text": text.grad}
    for gradient in gradients.values():
        if group is not None and gradient is not None:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    if both:
        with torch.no_grad():
            results["velocity without gradients"] = made(noisy, sigma, text, first).velocity
    given = {f"gradient of {name}": gradient for name, gradient in gradients.items() if gradient is not None}
    return {name: x.detach() for name, x in results.items()} | given


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder, compiles, rank = Path(sys.argv[1]), sys.argv[2] == "compiled", dist.get_rank()
    compilation.torch.compile = partial(torch.compile, backend="aot_eager")  # type: ignore[assignment]
    cases = COMPILED if compiles else CASES
    divided = {name: found(*case, dist.group.WORLD, compiles, compiles) for name, case in cases.items()}
    torch.save(divided, folder / f"rank-{rank}.pt")
    if rank == 0:
        kinds = {case[:2] for case in cases.values()}
        alone = {case: found(*case, "auto", "none", None, both=compiles) for case in kinds}
        torch.save({name: alone[case[:2]] for name, case in cases.items()}, folder / "alone.pt")
    leave_group()
