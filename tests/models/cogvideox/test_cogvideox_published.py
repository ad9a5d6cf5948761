"""Parameter counts, the dry run's model, and folders that are not of this kind or not whole: one line each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file

from phys4d.dry_run.model import source_of
from phys4d.dry_run.prediction import predict
from phys4d.engine.config import build
from phys4d.engine.costs.gpus import GPUS
from phys4d.engine.errors import UserError
from phys4d.models.cogvideox.bare import IMAGE_TO_VIDEO, TRANSFORMER, bare
from phys4d.models.cogvideox.spec import SPEC
from phys4d.models.config import ModelConfig
from phys4d.models.preflight import check_released
from phys4d.models.registry import MODELS
from phys4d.stages.run_file import RunConfig

Change = Callable[[Path], object]
MODEL = ModelConfig(kind="cogvideox", taps=(0, 2))
TRANSFORMER_FILE, VAE, TEXT = "transformer/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(("changes", "count"), [({}, 5_570_283_072), (IMAGE_TO_VIDEO, 5_570_479_680)])
def test_the_published_configurations_have_the_published_number_of_weights(changes: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel.from_config(TRANSFORMER | changes)
    assert sum(parameter.numel() for parameter in transformer.parameters()) == count


def test_the_published_model_is_known_without_a_folder() -> None:
    found = bare(MODEL, None)
    assert (found.layers, found.token_stride, found.steps, found.shift) == (42, (4, 16, 16), 50, 1.0)
    found.check_size((49, 480, 832))
    with pytest.raises(ValueError, match="53 frames"):
        found.check_size((53, 480, 720))
    parts = found.build(2, (0, 1), 0)
    assert all(parameter.is_meta for parameter in parts.backbone.parameters())
    assert (parts.text.tokens, parts.text.width, parts.codec.channels) == (226, 4096, 16)


def test_i2v_is_known_by_its_name() -> None:
    """It reads an image beside the latents, and takes one size alone."""
    assert SPEC.released == ("cogvideox-5b", "cogvideox-5b-i2v")
    for name, channels in zip(SPEC.released, (16, 32), strict=True):
        found = bare(MODEL, name)
        parts = found.build(1, (0,), 0)
        assert parts.backbone.transformer.config.in_channels == channels
        assert parts.codec.image_apart == (channels == 32)
        if channels == 32:
            with pytest.raises(ValueError, match="480x720 alone"):
                found.check_size((49, 480, 832))


def setting(file: str, **values: Any) -> Change:
    """Sets keys of a JSON file."""
    return lambda root: (root / file).write_text(json.dumps(json.loads((root / file).read_text()) | values))


def renamed(root: Path) -> None:
    """The keys of another program: a prefix before each."""
    for path in (root / "transformer").glob("*.safetensors"):
        save_file({f"model.{name}": tensor for name, tensor in load_file(path).items()}, path)
    index = root / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"] = {f"model.{name}": file for name, file in table["weight_map"].items()}
    index.write_text(json.dumps(table))


FAULTS: list[tuple[Change, str]] = [
    (lambda root: shutil.rmtree(root / "vae"), "{cog}: no vae: expected the diffusers layout of CogVideoX-5B or CogV"),
    (
        lambda root: next((root / "transformer").glob("*-00002-of-*")).unlink(),
        "diffusion_pytorch_model-00002-of-0000",
    ),
    (renamed, "/transformer: holds no patch_embed.proj.weight, which CogVideoXTransformer3DModel of its config.json"),
    (
        setting(TRANSFORMER_FILE, _class_name="WanTransformer3DModel"),
        "{cog}/transformer/config.json: _class_name: expected CogVideoXTransformer3DModel, got WanTransformer3DModel",
    ),
    (setting(TRANSFORMER_FILE, patch_size_t=2), "config.json: patch_size_t: 2: CogVideoX1.5 is not taken, only CogVid"),
    (setting(TRANSFORMER_FILE, in_channels=12), "in_channels: 12: expected 4, or 8 of a model that reads an image"),
    (setting(TRANSFORMER_FILE, num_layers=4), "holds no transformer_blocks.3."),
    (setting(VAE, _class_name="AutoencoderKLWan"), "vae/config.json: _class_name: expected AutoencoderKLCogVideoX"),
    (setting(VAE, temporal_compression_ratio=8), "temporal_compression_ratio: 8: only 4 is taken"),
    (setting(TEXT, architectures=["UMT5EncoderModel"]), "architectures: expected T5EncoderModel, got UMT5EncoderModel"),
    (lambda root: (root / "tokenizer" / "tokenizer.json").unlink(), "tokenizer/tokenizer.json: no such file"),
    (setting(SCHEDULER, prediction_type="epsilon"), "prediction_type: 'epsilon': only 'v_prediction' is taken"),
    (setting(SCHEDULER, timestep_spacing="linspace"), "timestep_spacing: 'linspace': only 'trailing' is taken"),
    (setting(SCHEDULER, snr_shift_scale=0), "snr_shift_scale: 0: expected a number above 0"),
    (setting(SCHEDULER, _class_name="UniPCMultistepScheduler"), "expected CogVideoXDDIMScheduler or CogVideoXDPMSched"),
    (setting("model_index.json", _class_name="WanPipeline"), "model_index.json: _class_name: WanPipeline: only CogVid"),
]


@pytest.fixture(scope="module")
def whole(write_cogvideox: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cogvideox(tmp_path_factory.mktemp("whole") / "cog")


@pytest.mark.parametrize("fault", range(len(FAULTS)))
def test_a_folder_that_is_not_whole_or_of_another_kind_is_refused_in_one_line(
    whole: Path, tmp_path: Path, fault: int
) -> None:
    change, line = FAULTS[fault]
    root = shutil.copytree(whole, tmp_path / "cog")
    change(root)
    with pytest.raises(UserError) as refused:
        MODELS["cogvideox"].outline(MODEL, root)
    assert line.format(cog=root) in str(refused.value) and "\n" not in str(refused.value)


def test_a_whole_folder_is_recognised_and_says_what_it_is(cogvideox: Path) -> None:
    outline = check_released(cogvideox, MODEL)
    assert (outline.layers, outline.width, outline.heads, outline.channels) == (3, 32, 2, 4)
    assert outline.token_stride == (4, 16, 16) and (outline.steps, outline.shift) == (50, 1.0)
    outline.check_size((17, 32, 32))
    with pytest.raises(ValueError, match="13 frames"):
        outline.check_size((13, 32, 32))
    if "image" in cogvideox.name:
        with pytest.raises(ValueError, match="32x48 pixels: this model has learned positions for 32x32 alone"):
            outline.check_size((9, 32, 48))
    else:
        outline.check_size((9, 32, 48))
    with pytest.raises(UserError, match='set model.kind = "cogvideox"'):
        check_released(cogvideox, ModelConfig())
    assert not MODELS["wan"].recognises(cogvideox)


def test_origins_change_with_the_parts_that_latents_depend_on(whole: Path, tmp_path: Path) -> None:
    root = shutil.copytree(whole, tmp_path / "cog")
    setting(VAE, scaling_factor=1.0)(root)
    before, after = (SPEC.encoders.origin(path) for path in (whole, root))  # type: ignore[union-attr]
    assert before["codec"] != after["codec"]
    assert {k: v for k, v in before.items() if k != "codec"} == {k: v for k, v in after.items() if k != "codec"}


@pytest.mark.parametrize("cogvideox", ["image"], indirect=True)
def test_a_run_of_it_is_counted_without_weights(cogvideox: Path) -> None:
    """Blocks with two outputs, activations computed again, a codec that hands its cache on in what it returns."""
    table = {"data": Path("data"), "optimizer": {"learning_rate": 1e-4}, "loop": {"steps": 1}, "batch": 1}
    keys = {"folder": Path("run"), "stages": ("finetune",), "finetune": table, "init": cogvideox, "precision": "bf16"}
    config = build(
        RunConfig, keys | {"model": {"kind": "cogvideox", "taps": (0, 2)}, "checkpointing": "full"}, "run"
    )
    found = predict(config, "finetune", source_of(config, None), (17, 32, 32), 1, GPUS["h100"])
    assert found.tokens == 5 * 2 * 2 and found.fits
    assert found.hardware_flops > found.model_flops > 0 and found.memory["codec"] > 0
