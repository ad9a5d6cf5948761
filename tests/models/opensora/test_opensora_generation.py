"""`phys4d generate` with Open-Sora 1.2: its own levels, guidance away from the learned tokens of no caption."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phys4d.cli import main
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.random import normal
from phys4d.evaluate.run import as_bytes
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.opensora.backbone import published_shift
from phys4d.models.opensora.spec import SPEC
from phys4d.models.placement import place

SIZE = (5, 32, 32)


@pytest.mark.parametrize("negative", ["", "a ball"])
def test_a_clip_is_that_of_the_published_loop(
    opensora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], negative: str
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "first.png")
    words = ["generate", "--model", str(opensora), "--prompt", "a red ball falls", "--negative", negative]
    words += ["--image", str(tmp_path / "first.png"), "--size", "32", "--frames", "5", "--steps", "2", "--frames-png"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    made = json.loads((tmp_path / "out" / "clip.json").read_text())["generation"]
    assert (made["solver"], made["guidance"]) == ("euler", 7.0)

    config = ModelConfig(kind="opensora", taps=(0,), sampling_steps=2)
    model = place(folder.released(opensora, config, SIZE).model.eval(), Parallel.alone())
    video = torch.tensor(picture).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    first, text = model.codec.encode(video), model.text(["a red ball falls"])
    none = torch.zeros_like(text)
    none[:, :4] = model.backbone.transformer.y_embedder.y_embedding[:4]
    if negative:
        none = model.text([negative])
    shift = published_shift(SIZE)
    levels = [shift * u / (1 + (shift - 1) * u) for u in (1.0, 0.5)] + [0.0]
    latents, unguided = [torch.cat([first, normal((1, 4, 2, 4, 4), 0, "generate", "start")[:, :, 1:]], 2)] * 2
    with torch.no_grad():
        for k in range(2):
            towards, away = (model.predict(latents, torch.tensor([levels[k]]), t).velocity for t in (text, none))
            latents = latents + (levels[k + 1] - levels[k]) * (away + 7 * (towards - away))
            velocity = model.predict(unguided, torch.tensor([levels[k]]), text).velocity
            unguided = unguided + (levels[k + 1] - levels[k]) * velocity
        expected, other = (as_bytes(model.codec.decode(z)[0]).astype(int) for z in (latents, unguided))
    found = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "frames").iterdir())])
    assert np.abs(found - expected).max() <= 1 < np.abs(expected - other).max()


def test_a_prompt_that_would_be_cut_is_refused(
    opensora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "first.png")
    words = ["generate", "--model", str(opensora), "--image", str(tmp_path / "first.png"), "--size", "32"]
    words += ["--frames", "5", "--out", str(tmp_path / "out"), "--prompt"]
    assert main([*words, "ball " * 301]) == 2
    assert "clip: prompt: 301 tokens, the text encoder takes 300: shorten it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_public_480p_is_refused_with_its_sides(
    opensora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 480x854 the public code makes clips of 480x848."""
    Image.new("RGB", (854, 480)).save(tmp_path / "first.png")
    words = ["generate", "--model", str(opensora), "--image", str(tmp_path / "first.png"), "--prompt", "a ball"]
    assert main([*words, "--size", "480x854", "--frames", "17", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "480x854 pixels: sides must be multiples of 16" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_its_own_size_is_one_that_it_takes(opensora: Path) -> None:
    sampling = SPEC.sampling(opensora)
    stride = SPEC.outline(ModelConfig(kind="opensora", taps=(0,)), opensora).token_stride
    assert (sampling.solver, sampling.guidance, sampling.size) == ("euler", 7.0, (33, 480, 848))
    assert (33 - 1) % stride[0] == 480 % stride[1] == 848 % stride[2] == 0
