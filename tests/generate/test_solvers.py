"""Solvers and guidance: the trajectory of diffusers' stock pipelines, and what their orders promise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from phys4d.engine.distributed.parallel import Parallel
from phys4d.generate.solvers import SOLVERS, solve, solver
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.flow import sample, schedule
from phys4d.models.guidance import guided
from phys4d.models.interface import Prediction
from phys4d.models.placement import place
from phys4d.models.registry import MODELS
from phys4d.models.spec import Sampling
from phys4d.models.world import WorldModel

STEPS, GUIDANCE = 5, 4.0
PROMPT, NEGATIVE = "a red ball falls", "red a"


def prediction(latents: Tensor, velocity: Tensor, sigma: Tensor) -> Prediction:
    return Prediction(velocity, latents - sigma.view(-1, 1, 1, 1, 1) * velocity, ())


@pytest.fixture(scope="module")
def small(released: Path) -> WorldModel:
    """The released model with text tokens in fp32, as its stock pipeline computes here."""
    model = folder.released(released, ModelConfig(kind="wan", taps=(0,)), (5, 64, 64)).model
    encoder = UMT5EncoderModel.from_pretrained(released / "text_encoder", dtype=torch.float32)
    model.text._modules["model"] = encoder
    return place(model.eval(), Parallel.alone())


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def stock(released: Path, scheduler: Any, picture: np.ndarray, noise: Tensor, guidance: float) -> Tensor:
    """Latents of diffusers' image-to-video pipeline, run as Wan2.2-TI2V runs it."""
    pipe = WanImageToVideoPipeline(
        tokenizer=AutoTokenizer.from_pretrained(released / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(released / "text_encoder", dtype=torch.float32),
        vae=AutoencoderKLWan.from_pretrained(released / "vae"),
        scheduler=scheduler,
        transformer=WanTransformer3DModel.from_pretrained(released / "transformer"),
        expand_timesteps=True,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        Image.fromarray(picture), PROMPT, NEGATIVE, height=64, width=64, num_frames=5, num_inference_steps=STEPS,
        guidance_scale=guidance, latents=noise, output_type="latent",
    ).frames  # fmt: skip


def ours(model: WorldModel, released: Path, name: str, picture: np.ndarray, noise: Tensor, scale: float) -> Tensor:
    first = model.codec.encode(torch.from_numpy(picture).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1)
    prompt, negative = model.text([PROMPT])[:1], model.text([NEGATIVE])[:1]
    predict = guided(
        lambda x, sigma: model.predict(x, sigma, prompt), lambda x, sigma: model.predict(x, sigma, negative), scale
    )
    chosen = solver(name, MODELS["wan"].sampling(released), STEPS, model.config.sampling_shift, model.sigmas)
    return solve(predict, first, noise, chosen)


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
def test_the_models_own_solver_is_its_stock_pipeline(
    released: Path, small: WorldModel, picture: np.ndarray, guidance: float
) -> None:
    noise = torch.randn(1, 8, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    scheduler = UniPCMultistepScheduler.from_pretrained(released / "scheduler")
    expected = stock(released, scheduler, picture, noise, guidance)
    found = ours(small, released, "unipc", picture, noise, guidance)
    assert (expected[:, :, 1:] - noise[:, :, 1:]).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["euler", "dpm++"])
def test_another_solver_is_diffusers_on_the_models_noise_levels(
    released: Path, small: WorldModel, picture: np.ndarray, name: str
) -> None:
    class OnTheseLevels(DPMSolverMultistepScheduler if name == "dpm++" else FlowMatchEulerDiscreteScheduler):  # type: ignore
        def set_timesteps(self, *arguments: object, **options: Any) -> None:
            super().set_timesteps(STEPS)
            self.sigmas = torch.tensor(small.sigmas(STEPS))
            self.timesteps = self.sigmas[:-1] * 1000
            self.sigmas[0] -= 1e-6 if name == "dpm++" else 0
            self.set_begin_index(0)

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    scheduler = OnTheseLevels(**(flow if name == "dpm++" else {}))
    noise = torch.randn(1, 8, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    expected = stock(released, scheduler, picture, noise, GUIDANCE)
    found = ours(small, released, name, picture, noise, GUIDANCE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def gaussian(deviation: float) -> Any:
    """The exact velocity of data N(0, deviation^2)."""

    def predict(x: Tensor, sigma: Tensor) -> Prediction:
        s = sigma.view(-1, 1, 1, 1, 1)
        variance = (1 - s) ** 2 * deviation**2 + s**2
        return prediction(x, x * (s - (1 - s) * deviation**2) / variance, sigma)

    return predict


def exact(noise: Tensor, steps: int, name: str) -> float:
    """Error of the standard deviation 0.5 that the data have, from noise of deviation 1."""
    chosen = solver(name, Sampling(), steps, 1.0, lambda steps: schedule(steps, 1.0).tolist())
    found = solve(gaussian(0.5), noise[:, :, :0], noise, chosen)
    return (found - 0.5 * noise).abs().max().item() / noise.abs().max().item()


def test_higher_orders_come_nearer_to_the_exact_solution() -> None:
    noise = torch.randn(1, 2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    errors = {name: [exact(noise, steps, name) for steps in (8, 16)] for name in SOLVERS}
    assert errors["unipc"][1] < errors["euler"][1] / 3 and errors["dpm++"][1] < errors["euler"][1]
    assert 1.7 < errors["euler"][0] / errors["euler"][1] < 2.4


def test_euler_is_that_of_training_and_held_frames_stay() -> None:
    noise = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    held = torch.full((1, 2, 1, 4, 4), 7.0)
    levels = schedule(6, 3.0).tolist()
    found = solve(gaussian(0.5), held, noise, solver("euler", Sampling(), 6, 3.0, lambda steps: levels))
    torch.testing.assert_close(found, sample(gaussian(0.5), held, noise, levels), rtol=1e-5, atol=1e-5)
    assert (found[:, :, :1] == 7).all()


def test_guidance_by_hand() -> None:
    x, sigma = torch.full((1, 1, 1, 1, 1), 2.0), torch.tensor([0.5])
    calls: list[str] = []

    def constant(name: str, velocity: float) -> Any:
        def predict(noisy: Tensor, sigma: Tensor) -> Prediction:
            calls.append(name)
            value = torch.full_like(noisy, velocity)
            return Prediction(value, noisy - 0.5 * value, (torch.full((1, 1, 1), velocity),))

        return predict

    towards, away = constant("prompt", 1.0), constant("negative", 0.5)
    found = guided(towards, away, 3.0)(x, sigma)
    assert (found.velocity.item(), found.clean.item(), found.hidden[0].item()) == (2.0, 1.0, 1.0)
    calls.clear()
    assert guided(towards, away, 1.0)(x, sigma).velocity.item() == 1.0 and calls == ["prompt"]
