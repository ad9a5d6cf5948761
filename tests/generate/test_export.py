"""`phys4d export`: stock diffusers loads what was written and samples what the model samples here."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from phys4d.cli import main
from phys4d.engine.distributed.parallel import Parallel
from phys4d.export.joined import joined
from phys4d.generate.opening import open_model
from phys4d.generate.solvers import solve, solver
from phys4d.models.lora_file import LoraLayer, read_lora
from phys4d.models.placement import place
from phys4d.models.registry import MODELS

PROMPT = "a red ball falls"
NOISE = torch.randn(1, 8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
RENAME = MODELS["wan"].rename_lora


def export(*words: object) -> int:
    return main(["export", *map(str, words)])


@pytest.fixture(scope="module")
def exported(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "whole"
    assert export(tuned, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def expected(tuned: Path, picture: Path) -> Tensor:
    """Latents that the last model of the run gives, by its own solver in three steps."""
    opened = open_model(tuned, None, None, None)
    encoder = UMT5EncoderModel.from_pretrained(opened.source.base / "text_encoder", dtype=torch.float32)
    opened.model.text._modules["model"] = encoder
    model = place(opened.model.eval(), Parallel.alone())
    text = model.text([PROMPT])
    image = np.asarray(Image.open(picture).resize((64, 64)))
    first = model.codec.encode(torch.tensor(image).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1)
    own = solver("unipc", opened.sampling, 3, 5.0, model.sigmas)
    return solve(lambda x, sigma: model.predict(x, sigma, text), first, NOISE, own)


def sampled(folder: Path, pipeline: type[WanPipeline], picture: Path, lora: Path | None) -> Tensor:
    """Latents of a stock pipeline on what was exported."""
    pipe = pipeline.from_pretrained(
        folder,
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
    )
    assert isinstance(pipe.scheduler, UniPCMultistepScheduler)
    if lora is not None:
        pipe.load_lora_weights(str(lora))
    pipe.set_progress_bar_config(disable=True)
    image = {"image": Image.open(picture).resize((64, 64))} if pipeline is WanImageToVideoPipeline else {}
    return pipe(
        prompt=PROMPT, height=64, width=64, num_frames=5, num_inference_steps=3, guidance_scale=1.0, latents=NOISE,
        output_type="latent", **image,
    ).frames  # fmt: skip


def test_stock_diffusers_samples_what_the_model_samples(exported: Path, expected: Tensor, picture: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md", "lora", "model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae",
    ]  # fmt: skip
    found = sampled(exported, WanImageToVideoPipeline, picture, exported / "lora")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    without = sampled(exported, WanImageToVideoPipeline, picture, None)
    assert (without - expected).abs().max() > 0.01
    assert 'load_lora_weights("THIS FOLDER/lora")' in (exported / "README.md").read_text()


def test_merged_weights_need_no_lora(
    tuned: Path, exported: Path, expected: Tensor, picture: Path, tmp_path: Path
) -> None:
    assert export(tuned, "--out", tmp_path / "merged", "--merged") == 0
    assert not (tmp_path / "merged" / "lora").exists()
    found = sampled(tmp_path / "merged", WanImageToVideoPipeline, picture, None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    text_to_video = sampled(tmp_path / "merged", WanPipeline, picture, None)
    with_lora = sampled(exported, WanPipeline, picture, exported / "lora")
    torch.testing.assert_close(text_to_video, with_lora, rtol=1e-4, atol=1e-4)


def effects(folder: Path) -> dict[str, Tensor]:
    return {name: layer.scale * layer.b @ layer.a for name, layer in read_lora(folder, RENAME)[1].items()}


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_weights_are_readable_as_the_umask_says(tuned: Path, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        assert export(tuned, "--out", tmp_path / "lora", "--lora-only") == 0
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "lora").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask} and len(files) == 4


def test_weights_are_rounded_once_to_half_the_bytes(tuned: Path, exported: Path, tmp_path: Path) -> None:
    """Of every part that is in fp32, with a LoRA in the sum or not; an index of parts states the new size."""
    assert export(tuned, "--out", tmp_path / "half", "--dtype", "bf16") == 0
    files = sorted(path.relative_to(exported) for path in exported.rglob("*.safetensors"))
    assert len(files) >= 4
    for name in files:
        before, after = load_file(exported / name), load_file(tmp_path / "half" / name)
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            kept = torch.bfloat16 if tensor.dtype == torch.float32 and name.parts[0] != "lora" else tensor.dtype
            assert after[key].dtype == kept and torch.equal(after[key], tensor.to(kept)), (name, key)
    indexes = list((tmp_path / "half").rglob("*.safetensors.index.json"))
    assert len(indexes) == 2
    for index in indexes:
        parts = {index.parent / name for name in json.loads(index.read_text())["weight_map"].values()}
        size = sum(tensor.nbytes for part in parts for tensor in load_file(part).values())
        assert json.loads(index.read_text())["metadata"]["total_size"] == size
    assert export(tuned, "--out", tmp_path / "whole", "--merged") == 0
    assert export(tuned, "--out", tmp_path / "merged", "--merged", "--dtype", "bf16") == 0
    for path in (tmp_path / "whole" / "transformer").glob("*.safetensors"):
        after = load_file(tmp_path / "merged" / "transformer" / path.name)
        assert all(torch.equal(after[key], tensor.bfloat16()) for key, tensor in load_file(path).items())


def test_the_loras_of_all_stages_are_one(tuned: Path, exported: Path) -> None:
    parts = [effects(tuned / "model-reinforce" / "adapters" / name) for name in ("finetune", "reinforce")]
    found = effects(exported / "lora")
    assert found.keys() == parts[0].keys()
    for name, effect in found.items():
        torch.testing.assert_close(effect, parts[0][name] + parts[1][name])
    config = json.loads((exported / "lora" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (6, 6)
    bare = WanTransformer3DModel.from_pretrained(exported / "transformer")
    assert PeftModel.from_pretrained(bare, exported / "lora").peft_config["default"].r == 6


def test_the_comfyui_layout_is_read_back(tuned: Path, released: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "comfy"
    assert export(tuned, "--out", out, "--layout", "comfyui") == 0
    tensors = load_file(out / "lora.safetensors")
    prefix = "diffusion_model.blocks.0.self_attn.q"
    assert {f"{prefix}.lora_down.weight", f"{prefix}.lora_up.weight", f"{prefix}.alpha"} <= tensors.keys()
    assert tensors[f"{prefix}.alpha"] == len(tensors[f"{prefix}.lora_down.weight"]) == 6
    assert sum("alpha" in name for name in tensors) == 3 * 10  # blocks x (two attentions of 4, feed-forward of 2)
    (out / "lora.safetensors").rename(out / "pytorch_lora_weights.safetensors")
    ours, expected = effects(out), effects(exported / "lora")
    theirs = WanPipeline.lora_state_dict(out, weight_name="pytorch_lora_weights.safetensors")
    assert ours.keys() == expected.keys()
    for name, effect in expected.items():
        torch.testing.assert_close(ours[name], effect)
        a, b = (theirs[f"transformer.{name}.lora_{half}.weight"] for half in "AB")
        torch.testing.assert_close(b @ a, effect)


def test_joined_by_hand() -> None:
    def layer(a: float, b: float, scale: float) -> LoraLayer:
        return LoraLayer(torch.full((1, 1), float(a)), torch.full((1, 1), float(b)), scale, ("a", "b"))

    both = joined([{"x": layer(2, 3, 0.5), "y": layer(1, 1, 4)}, {"x": layer(5, 7, 1)}])
    assert (both["x"].b @ both["x"].a).item() == 3 + 35 and both["x"].scale == 1
    assert both["y"].b.item() == 4
    alone = {"x": layer(2, 3, 0.5)}
    assert joined([alone]) == alone


def test_tiny_exports_its_transformer_and_lora(tiny_run: Path, tmp_path: Path) -> None:
    assert export(tiny_run, "--out", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "lora", "transformer"]
    transformer = WanTransformer3DModel.from_pretrained(tmp_path / "out" / "transformer")
    transformer.load_lora_adapter(
        str(tmp_path / "out" / "lora"), weight_name="pytorch_lora_weights.safetensors", use_safetensors=True
    )
    text = (tmp_path / "out" / "README.md").read_text()
    assert 'WanTransformer3DModel.from_pretrained("THIS FOLDER/transformer")' in text


@pytest.mark.parametrize(
    ("model", "words", "line"),
    [
        ("tiny_run", ("--layout", "comfyui"), '--layout comfyui: is not written for models of the kind "tiny"'),
        ("tuned", ("--lora-only", "--dtype", "bf16"), "--dtype bf16: is of whole models, not of a LoRA alone"),
        ("tiny_run/model-backbone", ("--merged",), "model-backbone: has no LoRA"),
        ("released", (), "phys4d.json: no such file"),
        ("nowhere", (), "phys4d.json: no such file"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str,
    words: tuple[str, ...], line: str,
) -> None:  # fmt: skip
    fixture, _, rest = model.partition("/")
    path = tmp_path / "no" if fixture == "nowhere" else request.getfixturevalue(fixture) / rest
    assert export(path, "--out", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    assert export(tiny_run, "--out", tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
