"""The backbone of `small`: the first frame beside every frame, velocity, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.models.config import ModelConfig
from phys4d.models.folder import load, save
from phys4d.models.placement import place
from phys4d.models.registry import MODELS
from phys4d.models.small.backbone import small_transformer
from phys4d.models.world import WorldModel, create_model

SMALL = ModelConfig(kind="small", width=64, layers=2, taps=(0, 1))


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return create_model(SMALL, 5, 16, 24, seed=2).requires_grad_(False)


def test_it_is_the_stock_transformer_with_the_first_frame_behind_each(world: WorldModel) -> None:
    draw = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(2, 16, 2, 4, 6, generator=draw), torch.randn(2, 64, 64, generator=draw)
    sigma = torch.tensor([0.3, 0.9])
    stock = small_transformer(16, 64, 2, 64)
    stock.load_state_dict(world.backbone.transformer.state_dict())
    steps = torch.cat([torch.zeros(2, 6), 1000 * sigma[:, None].expand(2, 6)], 1)
    inputs = torch.cat([noisy, noisy[:, :, :1].repeat(1, 1, 2, 1, 1)], 1)
    expected = stock.eval()(inputs, steps, text, return_dict=False)[0]
    found = world.predict(noisy, sigma, text)
    torch.testing.assert_close(found.velocity[:, :, 1:], expected[:, :, 1:], rtol=1e-4, atol=1e-5)
    assert not found.velocity[:, :, 0].any()
    clean = noisy - sigma.view(2, 1, 1, 1, 1) * found.velocity
    torch.testing.assert_close(found.clean, clean, rtol=0, atol=0)


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (64, 1), (96, 1), (160, 2), (192, 3), (270, 3), (320, 5)])
def test_heads_divide_every_width(width: int, heads: int) -> None:
    config = small_transformer(16, width, 1, 64).config
    assert (config.num_attention_heads, config.attention_head_dim) == (heads, width // heads)


def test_its_sizes() -> None:
    config = small_transformer(16, 192, 6, 64).config
    assert (config.in_channels, config.out_channels, config.text_dim, config.num_layers) == (32, 16, 64, 6)
    assert (config.freq_dim, config.ffn_dim, config.cross_attn_norm, config.rope_max_seq_len) == (64, 768, True, 64)


def test_a_model_folder_holds_the_codec_too(world: WorldModel, tmp_path: Path) -> None:
    save(world, tmp_path / "model", stage="backbone", base=None)
    read = place(load(tmp_path / "model").model, Parallel.alone())
    first = world.codec.encode(torch.rand(1, 3, 1, 16, 24) * 2 - 1)
    noise, text = torch.randn(1, 16, 2, 4, 6), world.text(["a red ball falls"])
    expected = world.codec.decode(world.generate(first, text, noise))
    torch.testing.assert_close(read.codec.decode(read.generate(first, text, noise)), expected)


@pytest.mark.parametrize("fault", ["vae", "channels", "weights"])
def test_a_folder_that_does_not_fit_is_refused_in_a_line(world: WorldModel, tmp_path: Path, fault: str) -> None:
    save(world, tmp_path / "model", stage="backbone", base=None)
    vae = tmp_path / "model" / "vae"
    if fault == "vae":
        vae.rename(tmp_path / "elsewhere")
    elif fault == "channels":
        table = json.loads((vae / "config.json").read_text()) | {"channels": 48}
        (vae / "config.json").write_text(json.dumps(table))
    else:
        (vae / "diffusion_pytorch_model.safetensors").unlink()
    said = {"vae": "vae/config.json", "channels": "encoder.6.bias|encoder.6.weight", "weights": "safetensors"}
    with pytest.raises(UserError, match=said[fault]) as refused:
        MODELS["small"].outline(SMALL, tmp_path / "model")
    assert "\n" not in str(refused.value)


def test_latents_of_a_new_model_are_not_cached() -> None:
    encoders = MODELS["small"].encoders
    assert encoders is not None
    for use in (encoders.build, encoders.origin):
        with pytest.raises(UserError, match="codec is untrained: name a model folder"):
            use(None)
