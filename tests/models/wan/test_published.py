"""A released folder is looked at by content before it is loaded: what is not of its kind, or not whole, is one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from phys4d.engine.errors import UserError
from phys4d.models import folder as model_folder
from phys4d.models.config import ModelConfig
from phys4d.models.lora import add_adapter
from phys4d.models.preflight import HEADS, check_model
from phys4d.models.registry import MODELS
from phys4d.models.wan import bare
from phys4d.models.wan.published import check_released
from phys4d.models.world import create_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9999999\n"
WEIGHTS = {"vae": "vae/diffusion_pytorch_model.safetensors"}
Change = Callable[[Path], object]


def setting(file: str, **values: Any) -> Change:
    """Sets keys of a JSON file; None removes one."""

    def change(root: Path) -> None:
        table = json.loads((root / file).read_text()) | values
        (root / file).write_text(json.dumps({k: v for k, v in table.items() if v != "absent"}))

    return change


def writing(file: str, text: str) -> Change:
    return lambda root: (root / file).write_text(text)


def shards(root: Path, part: str) -> list[Path]:
    found = sorted((root / part).glob("*-of-*.safetensors"))
    assert len(found) > 1
    return found


Weights = dict[str, torch.Tensor]


def stored_as(file: str, change: Callable[[Weights], Weights]) -> Change:
    return lambda root: save_file(change(load_file(root / file)), root / file)


def only_bin(root: Path) -> None:
    for path in (root / "transformer").glob("*.safetensors*"):
        path.unlink()
    (root / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"PK")


def in_one_file(root: Path) -> None:
    shutil.rmtree(root / "transformer")
    (root / "wan2.2_ti2v_5B_fp16.safetensors").write_bytes(b"")


TRANSFORMER, VAE, TEXT = "transformer/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
FAULTS: list[tuple[Change, str]] = [
    (lambda root: shutil.rmtree(root), "{wan}: no such folder: expected the diffusers layout of Wan2.2-TI2V-5B, a"),
    (lambda root: shutil.rmtree(root / "vae"), "{wan}: no vae: expected the diffusers layout of Wan2.2-TI2V-5B"),
    (in_one_file, "{wan}: no transformer, but wan2.2_ti2v_5B_fp16.safetensors, weights in one file: expected the diff"),
    (
        setting(TRANSFORMER, _class_name="CogVideoXTransformer3DModel", patch_size=2),
        "{wan}/transformer/config.json: _class_name: expected WanTransformer3DModel, got CogVideoXTransformer3DModel: "
        "only Wan2.2-TI2V is taken",
    ),
    (setting(TRANSFORMER, patch_size=2), "{wan}/transformer/config.json: patch_size: expected frames, rows and"),
    (setting(TRANSFORMER, image_dim=1280), "{wan}/transformer/config.json: image_dim: 1280: models that read an image"),
    (setting(TRANSFORMER, num_layers="3"), "{wan}/transformer/config.json: builds no model ("),
    (setting(TRANSFORMER, num_layers=4), "{wan}/transformer: holds no blocks.3.scale_shift_table, which WanTr"),
    (setting(TRANSFORMER, ffn_dim=128), ".ffn.net.0.proj.weight is [64, 48], WanTransformer3DModel of its "),
    (setting(TRANSFORMER, quantization_config={"quant_method": "bitsandbytes"}), "quantization_config: quantised"),
    (writing(TRANSFORMER, "{"), "{wan}/transformer/config.json: cannot be read (no JSON: "),
    (writing(TRANSFORMER, POINTER), "{wan}/transformer/config.json: is a git-lfs pointer: run `git lfs pull` in"),
    (setting(VAE, _class_name="AutoencoderKLLTXVideo"), "{wan}/vae/config.json: _class_name: expected AutoencoderK"),
    (setting(VAE, latents_mean=[0.0] * 16), "{wan}/vae/config.json: latents_mean: 16 numbers for 8 channels"),
    (setting(TEXT, architectures=["T5EncoderModel"]), "{wan}/text_encoder/config.json: architectures: expected UMT5"),
    (setting(TEXT, d_model=64), "UMT5EncoderModel of its config.json takes ["),
    (setting("model_index.json", boundary_ratio=0.875), "{wan}/model_index.json: two experts (Wan2.2-A14B): only"),
    (setting("model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"]), "model_index.json: two exp"),
    (lambda root: (root / "transformer_2").mkdir(), "{wan}/transformer_2: two experts (Wan2.2-A14B): only models of"),
    (setting("model_index.json", expand_timesteps=False), "{wan}/model_index.json: expand_timesteps: False: only"),
    (setting("model_index.json", expand_timesteps="absent"), "model_index.json: expand_timesteps: absent: only models"),
    (setting("model_index.json", _class_name="LTXPipeline"), "model_index.json: _class_name: expected WanPipeline"),
    (setting(SCHEDULER, prediction_type="epsilon"), "{wan}/scheduler/scheduler_config.json: prediction_type: 'epsi"),
    (
        writing(WEIGHTS["vae"], POINTER),
        "{wan}/vae/diffusion_pytorch_model.safetensors: is a git-lfs pointer, no weights: "
        "run `git lfs pull` in {wan}/vae",
    ),
    (
        lambda root: shards(root, "transformer")[1].write_text(POINTER),
        "is a git-lfs pointer, no weights: run `git lfs ",
    ),
    (lambda root: shards(root, "transformer")[-1].unlink(), "cannot be read (No such file or directory): copy or"),
    (
        lambda root: shards(root, "text_encoder")[0].write_bytes(b"x" * 100),
        "is no safetensors file (it begins with b'xx",
    ),
    (
        only_bin,
        "{wan}/transformer/diffusion_pytorch_model.safetensors: no such file: there is diffusion_pytorch_model.bin",
    ),
    (
        stored_as(WEIGHTS["vae"], lambda w: {k: t.to(torch.float8_e4m3fn) for k, t in w.items()}),
        " is F8_E4M3, taken are F32, F16, BF16: take the unquantised folder",
    ),
    (
        stored_as(WEIGHTS["vae"], lambda w: {k: t for k, t in w.items() if k != "post_quant_conv.bias"}),
        "{wan}/vae/diffusion_pytorch_model.safetensors: holds no post_quant_conv.bias, which",
    ),
    (
        lambda root: (root / "tokenizer" / "tokenizer.json").unlink(),
        "{wan}/tokenizer/tokenizer.json: no such file, and",
    ),
    (writing("tokenizer/tokenizer.json", POINTER), "{wan}/tokenizer/tokenizer.json: is a git-lfs pointer: run"),
]


@pytest.mark.parametrize(("change", "line"), FAULTS, ids=[line[:60] for _, line in FAULTS])
def test_what_is_not_a_whole_model_of_this_kind_is_one_line(
    released: Path, tmp_path: Path, change: Change, line: str
) -> None:
    wan = shutil.copytree(released, tmp_path / "wan")
    change(wan)
    with pytest.raises(UserError) as refused:
        check_released(wan)
    text = str(refused.value)
    assert line.format(wan=wan) in text and "\n" not in text and text.startswith(str(wan))


def test_a_sound_folder_passes_with_what_it_says(released: Path, tmp_path: Path) -> None:
    published = check_released(released)
    outline = MODELS["wan"].outline(ModelConfig(kind="wan"), released)
    assert outline.token_stride == (4, 32, 32) and published.shift == outline.shift == 5.0
    assert all(tensor.is_meta for tensor in published.transformer.state_dict().values())
    bare = shutil.copytree(released, tmp_path / "bare", ignore=shutil.ignore_patterns("scheduler", "model_index.json"))
    assert check_released(bare).shift == 5.0


def test_loading_checks_too_and_names_the_file(released: Path, tmp_path: Path) -> None:
    wan = shutil.copytree(released, tmp_path / "wan")
    setting(TRANSFORMER, num_layers=4)(wan)
    with pytest.raises(UserError, match="holds no blocks.3"):
        model_folder.released(wan, ModelConfig(kind="wan", taps=(0,)), (5, 32, 32))


def written(folder: Path) -> Path:
    """A tiny model with an adapter, its backbone in the folder beside it."""
    model = create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=0)
    model_folder.save(model, folder / "base", stage="backbone", base=None)
    add_adapter(model.backbone.transformer, "finetune", 2, 0, targets=model.backbone.lora_targets)
    model_folder.save(model, folder / "model", stage="finetune", base=folder / "base")
    return folder / "model"


def thinner(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor[:1].clone() if "lora_B" in key else tensor for key, tensor in weights.items()}


ADAPTER = "adapters/finetune/pytorch_lora_weights.safetensors"
OWN_FAULTS: list[tuple[Change, str]] = [
    (
        writing(str(HEADS), POINTER),
        "{model}: weights do not load ({model}/heads/model.safetensors: is a git-lfs pointer",
    ),
    (
        stored_as(str(HEADS), lambda w: {k: t for k, t in w.items() if k != "depth.place"}),
        "holds no depth.place, which",
    ),
    (stored_as(ADAPTER, thinner), "is [1, 2], this transformer takes [32, 2]): delete it and resume its run"),
    (
        lambda root: shutil.rmtree(root / "adapters"),
        "adapters/finetune/pytorch_lora_weights.safetensors: cannot be read",
    ),
    (
        lambda root: (root.parent / "base").rename(root.parent / "away"),
        "base/transformer/config.json: no such file: the folder that holds the backbone was moved or removed",
    ),
    (
        lambda root: (root.parent / "base/transformer/diffusion_pytorch_model.safetensors").write_text(POINTER),
        "git lfs",
    ),
    (setting("phys4d.json", format=2), "{model}/phys4d.json: format: 2: this version of phys4d reads format 1"),
    (setting("phys4d.json", height=32), "depth.place is [2, 2, 96], the heads of phys4d.json takes [4, 2, 96]"),
]


@pytest.mark.parametrize(("change", "line"), OWN_FAULTS, ids=[line[:60] for _, line in OWN_FAULTS])
def test_a_folder_of_ours_that_is_not_whole_is_one_line(tmp_path: Path, change: Change, line: str) -> None:
    model = written(tmp_path)
    check_model(model)
    change(model)
    for look in (check_model, model_folder.load):
        with pytest.raises(UserError) as refused:
            look(model)
        assert line.format(model=model) in str(refused.value) and "\n" not in str(refused.value)


def test_the_published_configuration_has_the_published_number_of_weights() -> None:
    """5.0 and 0.7 thousand millions, as its page has it."""
    with torch.device("meta"):
        parts = WanTransformer3DModel.from_config(bare.TRANSFORMER), AutoencoderKLWan.from_config(bare.VAE)
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [4_999_787_712, 704_688_668]
