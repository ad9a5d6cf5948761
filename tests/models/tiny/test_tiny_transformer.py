"""The tiny transformer: its sizes, and the distributions that its weights are drawn from."""

import math
from pathlib import Path

import pytest
import torch

from phys4d.models.config import ModelConfig
from phys4d.models.tiny.backbone import PATCH, TinyBackbone, draw_transformer, tiny_transformer
from phys4d.models.tiny.copying import CopyGate
from phys4d.models.tiny.haar import HaarCodec
from phys4d.models.tiny.spec import SPEC


def test_its_sizes_are_those_that_its_width_and_layers_ask_for() -> None:
    config = dict(tiny_transformer().config)
    sizes = {
        "patch_size": (1, 2, 2), "num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512, "num_layers": 4,
        "text_dim": 64, "freq_dim": 64, "cross_attn_norm": True, "rope_max_seq_len": 64,
        "in_channels": 2 * HaarCodec.channels, "out_channels": CopyGate.channels,
    }  # fmt: skip
    assert sizes.items() <= config.items() and sizes["patch_size"] == PATCH
    config = dict(tiny_transformer(width=96, layers=1, head_dim=24, text_width=16).config)
    sizes = {"num_attention_heads": 4, "attention_head_dim": 24, "ffn_dim": 384, "num_layers": 1, "text_dim": 16}
    assert sizes.items() <= config.items()


def test_what_a_new_model_says_of_itself() -> None:
    """Tokens of 4 x 8 x 8 pixels: patches of 1 x 2 x 2 latents, each of 4 x 4 x 4 pixels in three colours."""
    outline = SPEC.outline(ModelConfig(width=96, layers=3), None)
    assert (outline.layers, outline.width, outline.channels) == (3, 96, 3 * 4 * 4 * 4)
    assert f"{outline.token_stride}" == "(4, 8, 8)" and (outline.steps, outline.shift) == (10, 3.0)
    assert all(parameter.is_meta for parameter in outline.transformer.parameters())


@pytest.mark.parametrize("from_folder", [False, True])
def test_what_it_says_without_values_and_with_which_adapter(from_folder: bool, tmp_path: Path) -> None:
    """A folder's transformer has 2 heads of 32 channels and one layer, whatever the settings are."""
    if from_folder:
        tiny_transformer(64, 1).save_config(tmp_path / "transformer")
    assert SPEC.bare is not None
    bare = SPEC.bare(ModelConfig(width=96, layers=3), tmp_path if from_folder else None)
    assert (bare.layers, bare.period) == ((1, 1) if from_folder else (3, 1))
    assert (bare.token_stride, bare.steps, bare.shift) == ((4, 8, 8), 10, 3.0)
    backbone = bare.build(2, (1,), 0).backbone
    assert (len(backbone.blocks), backbone.width, backbone.taps) == (2, 64 if from_folder else 96, (1,))
    assert (SPEC.lora.rank, SPEC.lora.alpha) == (16, 16)


def test_it_sees_the_first_frames_latents_beside_those_of_every_frame() -> None:
    backbone = TinyBackbone(tiny_transformer(width=32, layers=1), (0,))
    seen: list[torch.Tensor] = []
    backbone.transformer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    noisy, text = torch.randn(2, HaarCodec.channels, 3, 2, 4), torch.randn(2, 5, 64)
    backbone(noisy, torch.tensor([0.9, 0.3]), text)
    assert torch.equal(seen[0], torch.cat([noisy, noisy[:, :, [0, 0, 0]]], 1))


def test_its_layers_tables_and_norms_are_drawn_as_the_class_draws_them() -> None:
    """Linear layers uniform within 1 / sqrt(inputs), modulation tables normal with deviation 1 / sqrt(width)."""
    transformer = tiny_transformer(width=64, layers=2)
    for parameter in transformer.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    untouched = {name for name, module in transformer.named_modules() if "norm" in name and list(module.parameters())}
    draw_transformer(transformer, seed=3)
    tables = {name: p for name, p in transformer.named_parameters() if name.endswith("scale_shift_table")}
    assert {name: p.shape[-1] for name, p in tables.items()} == {
        "scale_shift_table": 64, "blocks.0.scale_shift_table": 64, "blocks.1.scale_shift_table": 64
    }  # fmt: skip
    drawn = torch.cat([table.detach().flatten() for table in tables.values()]) * math.sqrt(64)
    assert float(drawn.std()) == pytest.approx(1, abs=0.1) and abs(float(drawn.mean())) < 0.1
    assert float(drawn.abs().max()) > 2  # normal, not uniform
    assert not torch.equal(tables["blocks.0.scale_shift_table"], tables["blocks.1.scale_shift_table"])
    weight = transformer.blocks[1].attn1.to_q.weight
    assert 0.99 / 8 < float(weight.detach().abs().max()) <= 1 / 8  # of 64 inputs
    assert untouched and all(
        (p == 0.5).all() for name in untouched for p in transformer.get_submodule(name).parameters()
    )
