"""All phases on a small Wan2.1: they learn a batch by heart, resume, divide over ranks, and go back to diffusers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from PIL import Image

from phys4d.cli import main
from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.placement import place
from tests.models.by_heart import policy_losses, repeated
from tests.models.cogvideox.test_cogvideox_stages import weights
from tests.models.trained_lora import add_lora
from tests.models.wan21.test_wan21_backbone import pipeline
from tests.stages.released_run import run_text

FRAMES, SIDE = 5, 32
GUIDED = {"guidance": 2.0, "loop": {"steps": 1}}


@pytest.fixture(scope="module")
def clips(write_clips: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of 5 frames of 32 x 32 pixels, in which a square slides."""
    return write_clips(tmp_path_factory.mktemp("wan21") / "data", scale=2, count=4)


@pytest.fixture
def write(clips: Path, wan21: Path, tmp_path: Path) -> Callable[..., Path]:
    def made(name: str, data: Path = clips) -> Path:
        run = tmp_path / f"{name}.toml"
        text = run_text(
            tmp_path / name, wan21, data, kind="wan21", evaluate={}, reinforce=GUIDED,
            finetune={"caption_dropout": 0.5, "loop": {"steps": 3, "checkpoint_every": 1}},
        )  # fmt: skip
        run.write_text(text)
        return run

    return made


def logged(run: Path, name: str) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


@pytest.mark.slow
def test_all_phases_train_and_are_evaluated_and_resume_to_the_bit(
    write: Callable[..., Path], session: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    ended = session("train", write("whole"))
    assert ended["codes"] == [0], ended["errors"]
    assert len(logged(tmp_path / "whole", "loss")) == 5 and np.isfinite(logged(tmp_path / "whole", "loss")).all()
    table = json.loads((tmp_path / "whole" / "evaluation" / "reinforce.json").read_text())
    assert np.isfinite(table["means"]["absrel"]) and np.isfinite(table["means"]["reward"])
    assert session("train", write("again"), kill={"stage": "finetune", "step": 2})["codes"] == [-9]
    ended = session("train", write("again"), "--resume")
    assert ended["codes"] == [0], ended["errors"]
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert one.keys() == two.keys() and len(one) > 10
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("wan21", ["image"], indirect=True)
def test_two_ranks_train_as_one_from_a_cache(
    write: Callable[..., Path], session: Callable[..., dict[str, Any]], clips: Path, wan21: Path, tmp_path: Path
) -> None:
    """One rank encodes clips and images at each step; two read the cache, and each holds half of the weights."""
    data = shutil.copytree(clips, tmp_path / "data")
    assert main(["data", "encode", str(data), "--model", str(wan21)]) == 0
    changes = ('stages=["pretrain","finetune"]', "pretrain.loop.steps=1", "finetune.caption_dropout=0")
    stages = [word for change in (*changes, "evaluate.scenes=2") for word in ("--set", change)]
    ended = session("train", write("one"), "--set", "cache=off", *stages)
    assert ended["codes"] == [0], ended["errors"]
    ended = session("train", write("two", data), "--set", "cache=required", *stages, ranks=2)
    assert ended["codes"] == [0, 0], ended["errors"]
    for name, count in (("loss", 4), ("diffusion_loss", 3)):
        one, two = (logged(tmp_path / run, name) for run in ("one", "two"))
        assert len(one) == count and one == pytest.approx(two, rel=1e-5)


@pytest.mark.parametrize("wan21", [pytest.param("text", marks=pytest.mark.slow), "image"], indirect=True)
def test_every_phase_learns_a_batch_by_heart(wan21: Path, clips: Path) -> None:
    """`reinforce` learns drawn steps: those of one sample become likelier, those of the other less so."""
    config = ModelConfig(kind="wan21", taps=(0, 2), heads=HeadConfig(width=8))
    model = place(folder.released(wan21, config, (FRAMES, SIDE, SIDE)).model, Parallel.alone())
    data = {"data": clips, "optimizer": {"learning_rate": 1e-3}, "loop": {"steps": 1}}
    losses = repeated(model, "pretrain", data | {"batch": 2}, 30)
    assert losses[-1] < 0.7 * losses[0]
    losses = repeated(model, "finetune", data | {"batch": 2, "rank": 8}, 20)
    assert losses[-1] < 0.85 * losses[0]

    losses = policy_losses(model, data, 15)
    assert losses[0] == pytest.approx(0, abs=1e-4) and losses[-1] < -0.1


def test_a_trained_model_is_read_again_and_gives_a_stock_pipeline_our_video(wan21: Path, tmp_path: Path) -> None:
    """With the adapter loaded by diffusers, in its own layout and in that of ComfyUI, and with merged weights."""
    config = ModelConfig(kind="wan21", taps=(0, 2))
    model = place(folder.released(wan21, config, (FRAMES, SIDE, SIDE)).model, Parallel.alone())
    add_lora(model, "finetune")
    folder.save(model, tmp_path / "model-finetune", stage="finetune", base=wan21)
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    image = {"image": Image.fromarray(picture)} if model.codec.image_apart else {}

    def video(pipe: Any) -> torch.Tensor:
        return pipe(
            **image, prompt="a red ball falls", height=SIDE, width=SIDE, num_frames=FRAMES, num_inference_steps=3,
            guidance_scale=1.0, generator=torch.Generator().manual_seed(0), output_type="pt",
        ).frames  # fmt: skip

    again = place(folder.load(tmp_path / "model-finetune").model, Parallel.alone())
    expected = video(pipeline(wan21, again.backbone.transformer))
    stock = pipeline(wan21)
    before = video(stock)
    stock.load_lora_weights(str(tmp_path / "model-finetune" / "adapters" / "finetune"))
    after = video(stock)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    words = ["export", str(tmp_path / "model-finetune"), "--out"]
    assert main([*words, str(tmp_path / "comfyui"), "--layout", "comfyui"]) == 0
    stock = pipeline(wan21)
    stock.load_lora_weights(str(tmp_path / "comfyui"), weight_name="lora.safetensors")
    torch.testing.assert_close(video(stock), expected, rtol=1e-4, atol=1e-4)
    assert main([*words, str(tmp_path / "merged"), "--merged"]) == 0
    merged = WanTransformer3DModel.from_pretrained(tmp_path / "merged" / "transformer")
    torch.testing.assert_close(video(pipeline(wan21, merged)), expected, rtol=1e-4, atol=1e-4)


def test_generate_takes_a_first_frame_where_the_model_reads_one(
    wan21: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reads_image = wan21.name.endswith("image")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "first.png")
    words = ["generate", "--model", str(wan21), "--prompt", "a red ball falls", "--size", "32", "--frames", "5"]
    words += ["--steps", "2"]
    image = ["--image", str(tmp_path / "first.png")]
    assert main([*words, "--out", str(tmp_path / "out"), *([] if reads_image else image)]) == 2
    assert ("is needed" if reads_image else "reads no first frame") in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "out"), *(image if reads_image else [])]) == 0
    made = json.loads((tmp_path / "out" / "clip.json").read_text())["generation"]
    assert (made["solver"], made["guidance"], made["shift"], made["steps"]) == ("unipc", 5.0, 3.0, 2)
    assert main(["generate", "--model", str(wan21), "--size", "32", "--frames", "5", "--dry-run"]) == 0
    assert "--offload parts" in capsys.readouterr().out


@pytest.mark.parametrize("wan21", ["image"], indirect=True)
def test_a_dry_run_counts_the_encoders_that_a_cache_saves(write: Callable[..., Path], tmp_path: Path) -> None:
    """Beside the weights of the autoencoder those of CLIP, and what encoding an image takes."""
    found = {}
    for cache in ("off", "required"):
        out = tmp_path / f"{cache}.json"
        changes = ('stages=["pretrain"]', f"cache={cache}")
        words = ["train", str(write(cache)), *(word for change in changes for word in ("--set", change))]
        assert main([*words, "--dry-run", "--world-size", "1", "--clip", "5x32x32", "--json", str(out)]) == 0
        found[cache] = json.loads(out.read_text())["stages"][0]
    assert found["off"]["memory"]["codec"] > 4 * 10_000 and found["required"]["memory"]["codec"] == 0
    assert found["off"]["model_flops"] > found["required"]["model_flops"]
