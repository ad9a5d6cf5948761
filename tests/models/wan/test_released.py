"""The folder layout of Wan2.2-TI2V-5B, at a size a test can hold: random weights, so plumbing is all that is shown."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.placement import place
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.wan.bands import decode_in_bands
from phys4d.models.wan.codec import WanCodec
from phys4d.models.wan.text import UMT5Encoder
from phys4d.models.world import WorldModel

CAPTIONS = ["a red ball falls", "a ball"]


@pytest.fixture(scope="module")
def wan(released: Path) -> Path:
    """The published layout and dtypes."""
    return released


@pytest.fixture(scope="module")
def model(wan: Path) -> WorldModel:
    return place(folder.released(wan, ModelConfig(kind="wan", taps=(0, 2)), (5, 64, 96)).model, Parallel.alone())


def test_it_predicts_a_velocity_with_a_clean_first_frame(model: WorldModel) -> None:
    video = torch.rand(2, 3, 5, 64, 96) * 2 - 1
    clean = model.codec.encode(video)
    assert clean.shape == (2, 8, 2, 4, 6) and model.grid.tokens == (2, 2, 3)
    noise, sigma = torch.randn_like(clean), torch.tensor([0.9, 0.2])
    text = model.text(CAPTIONS)
    assert text.shape == (2, 512, 32) and (text[0, 4:] == 0).all() and text[0, :4].abs().min() > 0
    with torch.no_grad():
        prediction = model.predict(model.noised(clean, noise, sigma), sigma, text)
        depth = model.read_geometry(clean, text, noise).depth
    assert (prediction.velocity[:, :, 0] == 0).all()
    assert depth.shape == (2, 5, 64, 96)
    assert model.codec.decode(clean).shape == video.shape


def test_per_token_timesteps_are_what_the_transformer_computes_with(wan: Path) -> None:
    loaded = place(folder.released(wan, ModelConfig(kind="wan", taps=(1,)), (5, 64, 96)).model, Parallel.alone())
    noisy, sigma, text = torch.randn(1, 8, 2, 4, 6), torch.tensor([0.7]), loaded.text(["a ball"])
    steps = torch.tensor([[0.0] * 6 + [700.0] * 6])
    transformer = loaded.backbone.transformer
    with torch.no_grad():
        reference = transformer(noisy, steps, text, return_dict=False)[0]
        ours = loaded.predict(noisy, sigma, text).velocity
    torch.testing.assert_close(ours[:, :, 1:], reference[:, :, 1:])


def test_latents_are_normalised_as_the_autoencoder_says(wan: Path) -> None:
    codec = WanCodec(wan / "vae")
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        raw = codec.vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(codec.encode(video), (raw - 0.1) / 2.0)


def test_every_channel_has_its_own_mean_and_deviation_both_ways(wan: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(wan / "vae", tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    means, deviations = [0.1 * k for k in range(8)], [1.0 + k for k in range(8)]
    (folder / "config.json").write_text(json.dumps(config | {"latents_mean": means, "latents_std": deviations}))
    codec = WanCodec(folder)
    mean, deviation = (torch.tensor(values).view(8, 1, 1, 1) for values in (means, deviations))
    video = torch.rand(2, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        raw = codec.vae.encode(video).latent_dist.mode()
        decoded = codec.vae.decode(raw).sample
    latents = codec.encode(video)
    torch.testing.assert_close(latents, (raw - mean) / deviation)
    torch.testing.assert_close(codec.decode(latents), decoded, rtol=1e-4, atol=1e-5)


def test_the_codec_is_frozen_and_its_normalisation_is_not_saved(wan: Path) -> None:
    codec = WanCodec(wan / "vae")
    assert not any(parameter.requires_grad for parameter in codec.vae.parameters())
    assert {name.split(".")[0] for name in codec.state_dict()} == {"vae"} and codec.mean.shape == (1, 8, 1, 1, 1)


def test_bands_are_taken_where_they_were_asked_for(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the normalisation of the folder, and the same video."""
    codec, seen = WanCodec(wan / "vae"), []

    def noted(vae: torch.nn.Module, latents: torch.Tensor) -> torch.Tensor:
        seen.append(latents)
        return decode_in_bands(vae, latents)

    monkeypatch.setattr("phys4d.models.wan.codec.decode_in_bands", noted)
    latents = torch.randn(1, 8, 2, 20, 2)
    whole = codec.decode(latents)
    assert not seen and not codec.image_apart
    codec.use_tiling()
    torch.testing.assert_close(codec.decode(latents), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(seen, [2.0 * latents + 0.1])  # deviation and mean of the folder


@pytest.mark.parametrize(("shape", "what"), [((10, 32, 32), "10 frames"), ((5, 40, 32), "40x32 pixels")])
def test_sizes_that_the_autoencoder_would_cut_are_refused(wan: Path, shape: tuple[int, int, int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        WanCodec(wan / "vae").encode(torch.zeros(1, 3, *shape))


def test_text_of_other_captions_does_not_leak_between_rows(wan: Path) -> None:
    encoder = UMT5Encoder(wan / "text_encoder", wan / "tokenizer")
    torch.testing.assert_close(encoder(CAPTIONS)[1], encoder(CAPTIONS[1:])[0])


def test_stage_output_names_the_released_folder_instead_of_copying_it(
    wan: Path, model: WorldModel, tmp_path: Path
) -> None:
    folder.save(model, tmp_path / "model-pretrain", stage="pretrain", base=wan)
    assert not (tmp_path / "model-pretrain" / "transformer").exists()
    loaded = folder.load(tmp_path / "model-pretrain")
    assert isinstance(loaded.model.backbone, WanBackbone) and loaded.base == wan.resolve()
