"""What `phys4d generate` does not take: one line, exit code 2, and nothing is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from phys4d.cli import main
from phys4d.models.lora_file import DIFFUSERS_WEIGHTS

PROMPT = ("--prompt", "a red ball")


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs generate and returns its one line; nothing appears in the output folder."""

    def run(*words: object) -> str:
        out = tmp_path / "out"
        assert main(["generate", *map(str, words), "--out", str(out)]) == 2
        assert not out.exists() or not list(out.iterdir())
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        return error

    return run


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--frames", 6), "--frames 6 --size 48x48: 6 frames: this codec takes 1 + k * 4, such as 5 or 9"),
        (("--size", "48x44"), "--size 48x44: 48x44 pixels: sides must be multiples of 8 and 8"),
        (("--size", "48x"), "--size 48x: expected HEIGHTxWIDTH"),
        (("--size", "48x96"), "first.png: 96x96 pixels, the clip is 48x96, of another aspect"),
        (("--prompt", "ball " * 40), "clip: prompt: caption of 40 words: this encoder takes 32"),
        (("--negative", "ball " * 40), "clip: negative: caption of 40 words"),
        (("--steps", 0), "--steps 0: expected 1 to 1000"),
        (("--guidance", 0.5), "--guidance 0.5: expected 1 to 100"),
        (("--device", "cuda:7"), "--device cuda:7: is not there"),
        (("--device", "meta"), "--device meta: computes nothing"),
        (("--batch", "x.jsonl"), "--image: not with --batch"),
        (("--dry-run",), "--image: not with --dry-run"),
        (("--lora", "nowhere"), "--lora nowhere: no such folder"),
        (("--vae-tiling",), "--vae-tiling: HaarCodec decodes whole frames alone"),
    ],
)
def test_options_that_do_not_fit_the_model(
    tiny_run: Path, picture: Path, refused: Any, words: tuple[object, ...], line: str
) -> None:
    assert line in refused("--model", tiny_run, "--image", picture, *PROMPT, *words)


def test_models_that_are_none(tmp_path: Path, picture: Path, refused: Any) -> None:
    words = ("--image", picture, *PROMPT)
    assert "no such folder: name a run folder, a model folder" in refused("--model", tmp_path / "no", *words)
    (tmp_path / "other" / "transformer").mkdir(parents=True)
    assert "is no run, no model folder of a stage, and no published model" in refused(
        "--model", tmp_path / "other", *words
    )
    (tmp_path / "other" / "config.toml").write_text('stages = ["finetune"]')
    assert "is a run of which no stage is finished" in refused("--model", tmp_path / "other", *words)


def test_pictures_that_are_none(tiny_run: Path, tmp_path: Path, refused: Any) -> None:
    broken = tmp_path / "first.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert "first.png: cannot be read as a picture" in refused("--model", tiny_run, "--image", broken, *PROMPT)
    line = refused("--model", tiny_run, "--image", tmp_path / "no.png", *PROMPT)
    assert "no.png: cannot be read" in line
    assert "image: is needed" in refused("--model", tiny_run, *PROMPT)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "prompts.jsonl: no lines"),
        ("[1]", "prompts.jsonl, line 1: expected an object"),
        ('\n{"image": ', "prompts.jsonl, line 2: is no JSON"),
        ('{"image": "a.png"}', "prompts.jsonl, line 1: prompt: expected a value"),
        ('{"image": "a.png", "prompt": "a", "sed": 1}', "line 1: sed: unknown key"),
        ('{"image": "a.png", "prompt": "a", "seed": "1"}', "line 1: seed: expected an integer"),
        ('{"image": "a.png", "prompt": "a", "name": "../x"}', "line 1: name: expected a string matching"),
        ('{"image": "a.png", "prompt": "a", "name": "x"}\n' * 2, "line 2: name: x is that of an earlier line"),
        ('{"image": "a.png", "prompt": "a"}', "a.png: cannot be read"),
    ],
)
def test_a_bad_line_of_a_batch_is_named(
    tiny_run: Path, tmp_path: Path, refused: Any, text: str, line: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text(text)
    assert line in refused("--model", tiny_run, "--batch", tmp_path / "prompts.jsonl")


def test_a_picture_of_another_aspect_is_cropped_on_request(tiny_run: Path, tmp_path: Path) -> None:
    wide = np.zeros((48, 96, 3), np.uint8)
    wide[:, 24:72] = 200  # the centre, all that is left
    Image.fromarray(wide).save(tmp_path / "wide.png")
    words = ("--model", tiny_run, "--image", tmp_path / "wide.png", *PROMPT, "--points", 0, "--frames-png")
    assert main(["generate", *map(str, words), "--crop", "--out", str(tmp_path / "out")]) == 0
    assert np.asarray(Image.open(tmp_path / "out" / "frames" / "0000.png")).mean() > 180
    meta = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert meta["intrinsics"][0][0][0] == pytest.approx(48 / np.tan(np.pi / 6))  # 60 degrees across 96 pixels


def test_loras_of_another_model_or_rank(
    tuned: Path, tiny_run: Path, picture: Path, tmp_path: Path, refused: Any
) -> None:
    words = ("--image", picture, *PROMPT)
    other = tiny_run / "model-finetune" / "adapters" / "finetune"
    line = refused("--model", tuned / "model-finetune", *words, "--lora", other)
    assert "--lora:" in line and "does not fit" in line and "lora_A" in line
    line = refused("--model", tuned, *words, "--lora", other)
    assert "this model has a LoRA reinforce already" in line
    own = tuned / "model-finetune" / "adapters" / "finetune" / DIFFUSERS_WEIGHTS
    tensors = load_file(own)
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    tensors[name] = tensors[name][:2]
    (tmp_path / "lora").mkdir()
    save_file(tensors, tmp_path / "lora" / DIFFUSERS_WEIGHTS)
    line = refused("--model", tuned / "model-finetune", *words, "--lora", tmp_path / "lora")
    assert "--lora:" in line and "does not fit" in line and "takes" in line


def test_a_prompt_beyond_the_published_text_encoder(released: Path, picture: Path, refused: Any) -> None:
    words = ("--image", picture, "--size", 64, "--frames", 5)
    line = refused("--model", released, *words, "--prompt", "ball " * 600)
    assert "clip: prompt: 600 tokens, the text encoder takes 512" in line


def test_one_latent_frame_after_the_other_is_exact(released: Path) -> None:
    """What is decoded of the first frames does not depend on those behind them, so chunks lose nothing."""
    from phys4d.models.wan.codec import WanCodec

    codec = WanCodec(released / "vae")
    latents = torch.randn(1, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(codec.decode(latents)[:, :, :5], codec.decode(latents[:, :, :2]))
