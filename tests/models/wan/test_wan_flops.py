"""FLOPs of a small Wan as by its formula, 2 x weights x tokens and attention: forward, heads, LoRA, all weights.

Two clips of a grid of 8 tokens with 6 text tokens each, 2 latent frames, 2 blocks of 48 channels and 64 in the MLP.
"""

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from phys4d.engine.training.flops import FlopCount
from phys4d.models.lora import add_adapter
from phys4d.models.wan.backbone import WanBackbone

CLIPS, TOKENS, TEXT, FRAMES = 2, 8, 6, 2
BLOCKS, WIDTH, MLP, CHANNELS, TEXT_WIDTH, TIME_WIDTH, RANK = 2, 48, 64, 8, 32, 32, 4
VIDEO, WORDS, TIMES = CLIPS * TOKENS, CLIPS * TEXT, CLIPS * FRAMES  # rows of the layers

SQUARE = 2 * WIDTH * WIDTH  # FLOPs of a square layer for one row
SELF, CROSS = (4 * CLIPS * TOKENS * keys * WIDTH for keys in (TOKENS, TEXT))  # FLOPs of attention
PATCH = 2 * VIDEO * CHANNELS * 4 * WIDTH
OUTPUT = 2 * VIDEO * WIDTH * CHANNELS * 4
TIME = 2 * TIMES * (TIME_WIDTH * WIDTH + WIDTH * WIDTH + WIDTH * 6 * WIDTH)
CAPTION = 2 * WORDS * (TEXT_WIDTH * WIDTH + WIDTH * WIDTH)
LAYERS = VIDEO * (6 * SQUARE + 2 * 2 * WIDTH * MLP)  # of a block, on video tokens
KEYS = WORDS * 2 * SQUARE  # of a block, on text tokens
FORWARD = PATCH + OUTPUT + TIME + CAPTION + BLOCKS * (LAYERS + KEYS + SELF + CROSS)


def backbone() -> WanBackbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=WIDTH // 2, in_channels=CHANNELS,
            out_channels=CHANNELS, text_dim=TEXT_WIDTH, freq_dim=TIME_WIDTH, ffn_dim=MLP, num_layers=BLOCKS,
            rope_max_seq_len=64,
        )  # fmt: skip
    return WanBackbone(net, (0, 1)).requires_grad_(False)


def inputs() -> tuple[torch.Tensor, ...]:
    return torch.randn(CLIPS, CHANNELS, FRAMES, 4, 4), torch.full((CLIPS,), 0.5), torch.randn(CLIPS, TEXT, TEXT_WIDTH)


def test_forward() -> None:
    with FlopCount() as count:
        backbone()(*inputs())
    assert count.model == count.hardware == FORWARD


def test_training_of_the_heads_needs_no_gradient_of_the_transformer() -> None:
    net, head = backbone(), nn.Linear(2 * WIDTH, 3)
    with FlopCount() as count:
        hidden = net(*inputs()).hidden
        head(torch.cat(hidden, -1)).sum().backward()
    one = 2 * VIDEO * 2 * WIDTH * 3
    assert count.model == count.hardware == FORWARD + 2 * one  # forward, and the gradient of the head's weight


@pytest.mark.parametrize("checkpointed", [False, True])
def test_fine_tuning_of_a_lora(checkpointed: bool) -> None:
    """Gradients go through the frozen layers, but those in front of the first block's adapter and those of the text."""
    net = backbone()
    add_adapter(net.transformer, "finetune", RANK, 0, net.lora_targets)

    def velocity(*given: torch.Tensor) -> torch.Tensor:
        return net(*given).velocity

    with FlopCount() as count:
        found = checkpoint(velocity, *inputs(), use_reentrant=False) if checkpointed else velocity(*inputs())
        found.square().sum().backward()
    pair = 2 * 2 * RANK * WIDTH  # FLOPs of an adapter of a square layer for one row: A, then B
    wide = 2 * 2 * RANK * (WIDTH + MLP)  # of both layers of the MLP
    adapters = VIDEO * (6 * pair + wide) + WORDS * 2 * pair  # of a block
    forward = FORWARD + BLOCKS * adapters
    attention = BLOCKS * (SELF + CROSS)
    through = OUTPUT + BLOCKS * LAYERS - VIDEO * 3 * SQUARE  # the first block's q, k, v get an input without gradient
    of_adapters = 2 * BLOCKS * adapters - VIDEO * 3 * pair // 2 - BLOCKS * WORDS * 2 * pair // 2  # nor do their A
    assert count.model == forward + through + of_adapters + 2 * attention
    assert count.hardware == count.model + attention // 2 + (forward if checkpointed else 0)


def test_training_of_all_weights_counts_backward_twice() -> None:
    """But the gradients of what goes into the model: latents, text and sinusoids."""
    net = backbone().requires_grad_(True)
    with FlopCount() as count:
        net(*inputs()).velocity.square().sum().backward()
    of_inputs = PATCH + 2 * WORDS * TEXT_WIDTH * WIDTH + 2 * TIMES * TIME_WIDTH * WIDTH
    assert count.model == 3 * FORWARD - of_inputs
    assert count.hardware == count.model + BLOCKS * (SELF + CROSS) // 2
