"""`phys4d generate` with CogVideoX-5B, which reads no first frame, and -I2V, which reads it beside the latents."""

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
from phys4d.models.placement import place


def test_a_clip_is_that_of_the_world_model(
    cogvideox: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reads_image = cogvideox.name.endswith("image")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "first.png")
    words = ["generate", "--model", str(cogvideox), "--prompt", "a red ball falls", "--size", "32", "--frames", "9"]
    words += ["--steps", "2", "--frames-png", "--out", str(tmp_path / "out")]
    image = ["--image", str(tmp_path / "first.png")]
    assert main(words + ([] if reads_image else image)) == 2
    assert ("is needed" if reads_image else "reads no first frame") in capsys.readouterr().err
    assert main(words + (image if reads_image else [])) == 0
    made = json.loads((tmp_path / "out" / "clip.json").read_text())["generation"]
    assert (made["solver"], made["guidance"]) == ("euler", 6.0)

    config = ModelConfig(kind="cogvideox", taps=(0,), sampling_steps=2)
    model = place(folder.released(cogvideox, config, (9, 32, 32)).model.eval(), Parallel.alone())
    video = torch.tensor(picture).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    first = model.codec.encode(video) if reads_image else None
    latents = normal((1, 4, 3, 4, 4), 0, "generate", "start")
    sigmas = model.sigmas(2)
    text, none = model.text(["a red ball falls"]), model.text([""])
    with torch.no_grad():
        for k in range(2):
            level = torch.tensor(sigmas[k : k + 1])
            towards, away = (model.predict(latents, level, t, first).velocity for t in (text, none))
            latents = latents + (sigmas[k + 1] - sigmas[k]) * (away + 6 * (towards - away))
    expected = as_bytes(model.codec.decode(latents)[0].clamp(-1, 1)).astype(int)
    found = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "frames").iterdir())])
    assert np.abs(found - expected).max() <= 1
    line = [*words[:4], "ball " * 20, *words[5:-1], str(tmp_path / "long"), *(image if reads_image else [])]
    assert main(line) == 2
    assert "clip: prompt: 2" in (error := capsys.readouterr().err) and "takes 10" in error


def test_the_memory_of_a_clip_is_counted(cogvideox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", str(cogvideox), "--size", "32", "--frames", "9", "--dry-run"]) == 0
    assert "--offload parts" in capsys.readouterr().out
