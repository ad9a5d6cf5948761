"""The backbone against diffusers' own transformer, scheduler and pipelines, on a tiny random model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.cogvideox.backbone import CogVideoXBackbone
from phys4d.models.config import ModelConfig
from phys4d.models.interface import Prediction
from phys4d.models.placement import place
from phys4d.models.world import WorldModel
from tests.models.cogvideox.conftest import SCHEDULER

CPU = torch.device("cpu")
CAPTIONS = ["a red ball falls", "a square"]


def loaded(source: Path, **settings: Any) -> WorldModel:
    config = ModelConfig(kind="cogvideox", taps=(0, 2), **settings)
    return place(folder.released(source, config, (9, 32, 32)).model, Parallel.alone())


@pytest.fixture(scope="module")
def model(cogvideox: Path) -> WorldModel:
    return loaded(cogvideox, sampling_steps=4)


@pytest.fixture(scope="module")
def stock(cogvideox: Path) -> CogVideoXTransformer3DModel:
    return CogVideoXTransformer3DModel.from_pretrained(cogvideox / "transformer").eval()


def given(model: WorldModel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """data, noise [2, 4, 3, 4, 4], first and text."""
    draw = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 2, 4, 3, 4, 4, generator=draw)
    return data, noise, torch.randn(2, 4, 1, 4, 4, generator=draw), model.text(CAPTIONS)


def stock_v(stock: Any, x: Tensor, t: list[int], text: Tensor, first: Tensor) -> Tensor:
    """The output of diffusers' transformer on x_t [B, C, T', H', W'] as its pipelines call it."""
    x = x.transpose(1, 2)
    if stock.config.in_channels == 8:
        image = first.transpose(1, 2) / 0.7**2  # inverted scale: latents / 0.7 from latents * 0.7
        x = torch.cat([x, torch.cat([image, torch.zeros_like(x[:, 1:])], 1)], 2)
    rope = get_3d_rotary_pos_embed(16, ((0, 0), (2, 2)), (2, 2), 3)
    out = stock(x, text, torch.tensor(t), image_rotary_emb=rope, return_dict=False)[0]
    return out.transpose(1, 2)


def test_prediction_and_gradients_are_diffusers_in_its_own_coordinates(
    model: WorldModel, stock: CogVideoXTransformer3DModel
) -> None:
    """x_t of its scheduler's `add_noise`, data and noise of its v; and the loss of its training example."""
    data, noise, first, text = given(model)
    scheduler = CogVideoXDDIMScheduler.from_config(SCHEDULER)
    t = [700, 999]
    sigma = model.backbone.process.table[t].float()
    x = scheduler.add_noise(data, noise, torch.tensor(t))
    a2 = scheduler.alphas_cumprod[t].float().view(2, 1, 1, 1, 1)
    a, s = a2.sqrt(), (1 - a2).sqrt()
    v = stock_v(stock, x, t, text, first)
    clean = scheduler.get_velocity(v, x, torch.tensor(t))
    model.backbone.transformer.requires_grad_(True)
    prediction = model.predict(model.noised(data, noise, sigma), sigma, text, first)
    torch.testing.assert_close(prediction.clean, clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.velocity, s * x + a * v - clean, rtol=1e-4, atol=1e-5)

    loss = ((clean - data).square() / (1 - a2)).mean()  # examples/cogvideo: weights = 1 / (1 - alphas_cumprod)
    ours = model.backbone.diffusion_loss(prediction, data, noise, sigma)
    torch.testing.assert_close(ours, loss, rtol=1e-5, atol=0)
    ours.backward()
    loss.backward()
    theirs = {name: p.grad for name, p in stock.named_parameters()}
    largest = max(float(g.abs().max()) for g in theirs.values() if g is not None)
    for name, parameter in model.backbone.transformer.named_parameters():
        if theirs[name] is None:  # what comes behind the last block's text
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-4, atol=1e-6 * largest, msg=name)
    model.backbone.transformer.requires_grad_(False).zero_grad()
    stock.zero_grad()


def test_a_sigma_between_two_timesteps_gives_the_data_of_its_own_mixture(model: WorldModel, stock: Any) -> None:
    """The probe: x_t has the proportions of sigma 0.05 itself, the transformer the nearest timestep, 1 or 2."""
    data, noise, first, text = given(model)
    sigma = torch.full((2,), 0.05)
    r = (0.95**2 + 0.05**2) ** 0.5
    t = int(model.backbone.process.timestep(sigma)[0])
    assert abs(float(model.backbone.process.table[t]) - 0.05) < 0.005
    x = (0.95 * data + 0.05 * noise) / r
    with torch.no_grad():
        v = stock_v(stock, x, [t, t], text, first)
        prediction = model.predict(model.noised(data, noise, sigma), sigma, text, first)
    torch.testing.assert_close(prediction.clean, (0.95 * x - 0.05 * v) / r, rtol=1e-4, atol=1e-5)


def test_taps_are_the_videos_tokens(model: WorldModel, stock: Any) -> None:
    data, noise, first, text = given(model)
    seen: dict[int, Tensor] = {}
    hooks = [
        stock.transformer_blocks[k].register_forward_hook(lambda m, i, out, k=k: seen.__setitem__(k, out[0]))
        for k in (0, 2)
    ]
    sigma = model.backbone.process.table[[300, 500]].float()
    with torch.no_grad():
        x = model.noised(data, noise, sigma) / (sigma**2 + (1 - sigma) ** 2).sqrt().view(2, 1, 1, 1, 1)
        stock_v(stock, x, [300, 500], text, first)
        hidden = model.predict(model.noised(data, noise, sigma), sigma, text, first).hidden
    for hook in hooks:
        hook.remove()
    for ours, k in zip(hidden, (0, 2), strict=True):
        assert ours.shape == (2, 12, 32)
        torch.testing.assert_close(ours, seen[k], rtol=1e-4, atol=1e-5)


def test_the_deterministic_trajectory_is_that_of_diffusers_pipeline(model: WorldModel, cogvideox: Path) -> None:
    """All of it: prompt, image, noise levels, Euler against DDIM, decoding."""
    image = "image" in cogvideox.name
    kind = CogVideoXImageToVideoPipeline if image else CogVideoXPipeline
    pipeline = kind(
        tokenizer=AutoTokenizer.from_pretrained(cogvideox / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(cogvideox / "text_encoder", dtype="auto"),
        vae=AutoencoderKLCogVideoX.from_pretrained(cogvideox / "vae"),
        transformer=CogVideoXTransformer3DModel.from_pretrained(cogvideox / "transformer"),
        scheduler=CogVideoXDDIMScheduler.from_pretrained(cogvideox / "scheduler"),
    )
    pipeline.set_progress_bar_config(disable=True)
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    frame = pixels.permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    first = model.codec.encode(frame)
    text, noise = model.text(CAPTIONS[:1]), torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    extra: dict[str, Any] = {"image": Image.fromarray(pixels.numpy())} if image else {}
    if image:  # the pipeline draws from the posterior, the codec takes its mode
        encode = pipeline.vae.encode
        pipeline.vae.encode = lambda x: type("", (), {"latents": encode(x).latent_dist.mode()})
    theirs = pipeline(
        **extra, prompt_embeds=text, height=32, width=32, num_frames=9, num_inference_steps=4, guidance_scale=1.0,
        max_sequence_length=10, latents=noise.transpose(1, 2), output_type="latent",
    ).frames.transpose(1, 2)  # fmt: skip
    with torch.no_grad():
        prompt, _ = pipeline.encode_prompt(CAPTIONS[0], do_classifier_free_guidance=False, max_sequence_length=10)
    assert torch.equal(prompt.float(), text)
    latents = model.generate(first, text, noise)
    torch.testing.assert_close(latents, theirs, rtol=1e-4, atol=1e-4)
    decoded = pipeline.decode_latents(theirs.transpose(1, 2))
    torch.testing.assert_close(model.codec.decode(latents), decoded, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(480, 720), (480, 832), (720, 480), (256, 256)])
def test_the_grid_of_positions_is_that_of_diffusers_pipeline(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(num_layers=1, use_rotary_positional_embeddings=True)
    ours = CogVideoXBackbone(transformer, ()).rotary(torch.Size((1, 16, 13, size[0] // 8, size[1] // 8)), CPU)
    pipeline: Any = SimpleNamespace(transformer=transformer, vae_scale_factor_spatial=8)
    theirs = CogVideoXPipeline._prepare_rotary_positional_embeddings(pipeline, *size, 13, CPU)
    assert ours is not None and all(map(torch.equal, ours, theirs)) and ours[0].dtype == torch.float32


def test_the_image_is_asked_for_where_it_is_read(model: WorldModel, cogvideox: Path) -> None:
    data, _, first, text = given(model)
    sigma = torch.tensor([0.5, 0.5])
    if "image" in cogvideox.name:
        with pytest.raises(ValueError, match="conditioned on the latent of the first frame"):
            model.predict(data, sigma, text)
        found: list[Prediction] = [model.predict(data, sigma, text, f) for f in (first, 2 * first)]
        assert not torch.allclose(found[0].velocity, found[1].velocity)
    else:
        assert model.predict(data, sigma, text).velocity[:, :, 0].abs().min() > 0


def test_bf16_keeps_time_exact_and_results_close(model: WorldModel, cogvideox: Path) -> None:
    data, _, first, text = given(model)
    sigma = torch.tensor([0.5, 0.9])
    seen: list[torch.dtype] = []
    lowered = loaded(cogvideox)
    lowered.backbone.precision = "bf16"
    lowered.backbone.transformer.time_embedding.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    with torch.no_grad():
        exact, rounded = (m.predict(data, sigma, text, first) for m in (model, lowered))
    assert seen == [torch.float32] and rounded.velocity.dtype == torch.float32
    error = (rounded.velocity - exact.velocity).norm() / exact.velocity.norm()
    assert 0 < error < 0.02


def test_attention_is_explained(model: WorldModel) -> None:
    assert model.backbone.explain_attention(12, 10, torch.device("cpu"))["left"] == {}
