"""Wan2.1 beside diffusers: prediction, loss, gradients, and the samples of the stock pipelines, guidance on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel

from phys4d.engine.distributed.parallel import Parallel
from phys4d.generate.solvers import solve, solver
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.guidance import guided
from phys4d.models.interface import encode_first, first_frames
from phys4d.models.placement import place
from phys4d.models.registry import MODELS
from phys4d.models.world import WorldModel

SIZE = (9, 32, 48)
STEPS, GUIDANCE = 4, 5.0
PROMPT, NEGATIVE = "a red ball falls", "red a"


@pytest.fixture(scope="module")
def model(wan21: Path) -> WorldModel:
    return place(folder.released(wan21, ModelConfig(kind="wan21", taps=(0, 2)), SIZE).model.eval(), Parallel.alone())


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def pipeline(root: Path, transformer: Any = None) -> Any:
    """The stock pipeline of a folder, from its parts."""
    parts: dict[str, Any] = {
        "tokenizer": AutoTokenizer.from_pretrained(root / "tokenizer"),
        "text_encoder": UMT5EncoderModel.from_pretrained(root / "text_encoder", dtype="auto"),
        "vae": AutoencoderKLWan.from_pretrained(root / "vae"),
        "scheduler": UniPCMultistepScheduler.from_pretrained(root / "scheduler"),
        "transformer": transformer or WanTransformer3DModel.from_pretrained(root / "transformer"),
    }
    kind: Any = WanPipeline
    if root.name.endswith("image"):
        kind = WanImageToVideoPipeline
        parts["image_encoder"] = CLIPVisionModel.from_pretrained(root / "image_encoder")
        parts["image_processor"] = CLIPImageProcessorPil.from_pretrained(root / "image_processor")
    made = kind(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def image_of(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1


def first_of(model: WorldModel, picture: np.ndarray) -> Tensor | None:
    return encode_first(model.codec, image_of(picture), SIZE[0]) if model.codec.image_apart else None


def beside(pipe: Any, picture: np.ndarray, noise: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What the stock pipeline puts behind the noisy latents, and its image tokens."""
    if not isinstance(pipe, WanImageToVideoPipeline):
        return None, None
    frames, height, width = SIZE
    image = pipe.video_processor.preprocess(Image.fromarray(picture), height=height, width=width)
    with torch.no_grad():
        _, condition = pipe.prepare_latents(
            image, len(noise), 4, height, width, frames, torch.float32, torch.device("cpu"), None, noise
        )
        return condition, pipe.encode_image(Image.fromarray(picture), torch.device("cpu"))


def test_prediction_loss_and_gradients_are_those_of_diffusers(
    wan21: Path, model: WorldModel, picture: np.ndarray
) -> None:
    pipe, draw = pipeline(wan21), torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 3, 4, 6, generator=draw) for _ in range(2))
    sigma, text = torch.tensor([0.7013]), model.text([PROMPT])
    noisy = (1 - 0.7013) * clean + 0.7013 * noise
    condition, image = beside(pipe, picture, noise)
    x = noisy if condition is None else torch.cat([noisy, condition], 1)
    expected = pipe.transformer(x, torch.tensor([701.3]), text, image, return_dict=False)[0]
    (expected - (noise - clean)).square().mean().backward()

    transformer = model.backbone.transformer.requires_grad_(True)
    torch.testing.assert_close(model.noised(clean, noise, sigma), noisy)
    found = model.predict(noisy, sigma, text, first_of(model, picture))
    torch.testing.assert_close(found.velocity, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.clean, noisy - 0.7013 * expected, rtol=1e-4, atol=1e-5)
    assert [h.shape for h in found.hidden] == [(1, 18, 48)] * 2
    loss = model.backbone.diffusion_loss(found, clean, noise, sigma)
    torch.testing.assert_close(loss, (expected - (noise - clean)).square().mean())
    loss.backward()
    theirs = dict(pipe.transformer.named_parameters())
    for name, parameter in transformer.named_parameters():
        grad = theirs[name].grad
        assert grad is not None and (grad.abs().max() > 0 or "attn2.norm_added_q" in name), name
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-3, atol=1e-3 * float(grad.abs().max()) + 1e-8)
    transformer.requires_grad_(False).zero_grad()


def test_every_step_of_sampling_is_that_of_the_stock_pipeline(
    wan21: Path, model: WorldModel, picture: np.ndarray
) -> None:
    noise = torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    states: list[Tensor] = []

    def keep(pipe: Any, step: int, t: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(values["latents"].clone())
        return values

    pipe, image = pipeline(wan21), {}
    if model.codec.image_apart:
        image = {"image": Image.fromarray(picture)}
    pipe(
        **image, prompt=PROMPT, negative_prompt=NEGATIVE, height=32, width=48, num_frames=9, num_inference_steps=STEPS,
        guidance_scale=GUIDANCE, latents=noise, output_type="latent", callback_on_step_end=keep,
    )  # fmt: skip

    sampling = MODELS["wan21"].sampling(wan21)
    assert (sampling.solver, sampling.guidance, model.config.sampling_shift) == ("unipc", 5.0, 3.0)
    first, (prompt, negative) = first_of(model, picture), (model.text([t]) for t in (PROMPT, NEGATIVE))
    seen: list[Tensor] = []

    def towards(noisy: Tensor, sigma: Tensor) -> Any:
        seen.append(noisy)
        return model.predict(noisy, sigma, prompt, first)

    predict = guided(towards, lambda noisy, sigma: model.predict(noisy, sigma, negative, first), GUIDANCE)
    chosen = solver("unipc", sampling, STEPS, model.config.sampling_shift, model.sigmas)
    last = solve(predict, noise[:, :, :0], noise, chosen)
    found = [*seen[1:], last]
    assert len(states) == STEPS == len(found) and (states[-1] - noise).abs().max() > 0.1
    for ours, theirs in zip(found, states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wan21", ["image"], indirect=True)
def test_what_is_read_of_the_first_frame_is_what_the_stock_pipeline_reads(
    wan21: Path, model: WorldModel, picture: np.ndarray
) -> None:
    """Latents with grey frames behind the image, and behind them the CLIP tokens, 80 numbers in frames of 4 x 4 x 6."""
    condition, image = beside(pipeline(wan21), picture, torch.zeros(1, 4, 3, 4, 6))
    assert condition is not None and image is not None and image.shape == (1, 5, 16)
    assert condition[:, :4, 0].eq(1).all() and condition[:, :4, 1:].eq(0).all()
    first = first_of(model, picture)
    assert first is not None and first.shape == (1, 4, 4, 4, 6)
    assert first_frames(model.codec, (3, 4, 6)) == 4
    torch.testing.assert_close(first[:, :, :3], condition[:, 4:], rtol=1e-4, atol=1e-5)
    assert (first[:, :, 1] - first[:, :, 2]).abs().max() > 1e-3  # grey frames are not one latent
    numbers = first[:, :, 3].flatten(1)
    torch.testing.assert_close(numbers[:, :80], image.flatten(1), rtol=1e-4, atol=1e-5)
    assert numbers[:, 80:].eq(0).all()
    other = encode_first(model.codec, image_of(255 - picture), SIZE[0])
    assert (other[:, :, 3] - first[:, :, 3]).abs().max() > 1e-2
    both = encode_first(model.codec, torch.cat([image_of(picture), image_of(255 - picture)]), SIZE[0])
    assert torch.equal(both, torch.cat([first, other]))
    with pytest.raises(ValueError, match="give `first`"):
        model.predict(torch.zeros(1, 4, 3, 4, 6), torch.ones(1), model.text([""]))


def test_bf16_keeps_time_in_fp32(wan21: Path, picture: np.ndarray) -> None:
    """A timestep of 999.4 is not 1000, which is what bf16 would make of it."""
    config = ModelConfig(kind="wan21", taps=(0,))
    model = place(folder.released(wan21, config, SIZE).model.eval(), Parallel.alone())
    seen: list[Tensor] = []
    model.backbone.transformer.condition_embedder.time_embedder.register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    x, text, first = torch.randn(1, 4, 3, 4, 6), model.text([PROMPT]), first_of(model, picture)
    with torch.no_grad():
        for precision in ("fp32", "bf16"):
            model.backbone.precision = precision
            model.predict(x, torch.tensor([0.9994]), text, first)
    assert torch.equal(seen[0], seen[1]) and seen[1].dtype == torch.float32


def test_the_attention_is_ours(model: WorldModel) -> None:
    """Of the text-to-video model two kinds, of image to video a third one; nothing is left to diffusers' code."""
    found = model.backbone.explain_attention(18, 512, torch.device("cpu"))
    assert set(found) == {"self", "cross", "left", *(["image"] if model.codec.image_apart else [])}
    assert found["left"] == {}
