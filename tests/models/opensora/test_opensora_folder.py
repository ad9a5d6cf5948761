"""Folders of Open-Sora 1.2: what is taken, what is refused in one line, what a stage writes and reads again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.lora import add_adapter
from phys4d.models.opensora.backbone import OpenSoraBackbone, published_shift
from phys4d.models.opensora.published import check_released
from phys4d.models.opensora.transformer import STDiT3
from phys4d.models.origin import origin
from phys4d.models.placement import place
from phys4d.models.preflight import check_released as check_any
from phys4d.models.registry import MODELS
from phys4d.models.world import WorldModel

CONFIG = ModelConfig(kind="opensora", taps=(0, 3))
SIZE = (5, 32, 48)
Change = Callable[[Path], object]


def loaded(path: Path) -> WorldModel:
    return place(folder.released(path, CONFIG, SIZE).model, Parallel.alone())


@pytest.fixture(scope="module")
def model(opensora: Path) -> WorldModel:
    return loaded(opensora)


def test_it_predicts_generates_and_reads_geometry(model: WorldModel) -> None:
    video = torch.rand(2, 3, *SIZE) * 2 - 1
    clean = model.codec.encode(video)
    assert clean.shape == (2, 4, 2, 4, 6) and model.grid.tokens == (2, 2, 3)
    text = model.text(["a red ball falls", "A Ball "])
    assert text.shape == (2, 300, 32) and (text[0, 4:] == 0).all() and text[0, :4].abs().min() > 0
    assert torch.equal(text[1], model.text(["a ball"])[0])
    noise, sigma = torch.randn_like(clean), torch.tensor([0.9, 0.2])
    with torch.no_grad():
        prediction = model.predict(model.noised(clean, noise, sigma), sigma, text)
        drawn = model.generate(clean[:, :, :1], text, noise)
        geometry = model.read_geometry(clean, text, noise)
    assert (prediction.velocity[:, :, 0] == 0).all() and torch.equal(drawn[:, :, 0], clean[:, :, 0])
    assert geometry.depth.shape == (2, *SIZE) and model.codec.decode(drawn).shape == video.shape


def test_what_a_folder_says_of_itself(opensora: Path) -> None:
    outline = check_any(opensora, CONFIG)
    assert (outline.layers, outline.width, outline.heads, outline.channels) == (4, 48, 2, 4)
    assert outline.token_stride == (4, 16, 16) and outline.steps == 30
    assert all(tensor.is_meta for tensor in outline.transformer.state_dict().values())
    assert set(origin("layout", opensora)) == {"codec", "tokenizer", "text encoder"}


def test_the_shift_is_that_of_the_clips_size_unless_the_run_names_one(opensora: Path) -> None:
    assert folder.released(opensora, CONFIG, SIZE).model.config.sampling_shift == published_shift(SIZE)
    named = CONFIG.model_copy(update={"sampling_shift": 2.0})
    assert folder.released(opensora, named, SIZE).model.config.sampling_shift == 2.0
    bare = MODELS["opensora"].bare
    assert bare is not None and bare(CONFIG, opensora).shift_of is published_shift


def test_every_weight_is_the_stored_one(opensora: Path, model: WorldModel) -> None:
    """The learned tokens of no caption among them, which are no weights of a layer."""
    stored = load_file(opensora / "transformer" / "model.safetensors")
    held = model.backbone.transformer.state_dict()
    assert set(held) == set(stored) and all(torch.equal(held[name], stored[name]) for name in stored)


def test_a_stages_model_is_read_again_with_its_adapter(opensora: Path, tmp_path: Path) -> None:
    model = folder.released(opensora, CONFIG, SIZE).model
    add_adapter(model.backbone.transformer, "finetune", rank=2, seed=3, targets=model.backbone.lora_targets)
    place(model, Parallel.alone())
    adapters = {n: p for n, p in model.backbone.transformer.named_parameters() if ".lora_B." in n}
    assert len(adapters) == 4 * 7
    with torch.no_grad():
        for parameter in adapters.values():
            parameter.normal_(std=0.1)
    folder.save(model, tmp_path / "model", stage="finetune", base=opensora)
    again = place(folder.load(tmp_path / "model").model, Parallel.alone())
    noisy, sigma, text = torch.randn(1, 4, 2, 4, 6), torch.tensor([0.5]), torch.randn(1, 3, 32)
    with torch.no_grad():
        a, b, plain = (m.predict(noisy, sigma, text).velocity for m in (model, again, loaded(opensora)))
    assert isinstance(again.backbone, OpenSoraBackbone) and not torch.allclose(a, plain)
    assert torch.equal(a, b)


def test_a_whole_model_is_written_and_read_as_diffusers_does(opensora: Path, tmp_path: Path) -> None:
    """With its class in config.json and diffusers' names of files."""
    folder.save(loaded(opensora), tmp_path / "model", stage="pretrain", base=None)
    part = tmp_path / "model" / "transformer"
    again = STDiT3.from_pretrained(part).state_dict()
    assert all(torch.equal(again[n], t) for n, t in load_file(opensora / "transformer/model.safetensors").items())
    for name in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(opensora / name, tmp_path / "model" / name)
    assert check_released(tmp_path / "model").transformer.config.depth == 2


def setting(file: str, **values: Any) -> Change:
    def change(root: Path) -> None:
        (root / file).write_text(json.dumps(json.loads((root / file).read_text()) | values))

    return change


def without(file: str, name: str) -> Change:
    return lambda root: save_file({k: t for k, t in load_file(root / file).items() if k != name}, root / file)


def transformer_of(**values: int) -> Change:
    """A whole transformer of other settings in place of the one that is there."""

    def change(root: Path) -> None:
        settings = {"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": 32} | values
        save_file(STDiT3(**settings).state_dict(), root / "transformer/model.safetensors")
        setting(TRANSFORMER, **settings)(root)

    return change


TRANSFORMER, VAE, TEXT = "transformer/config.json", "vae/config.json", "text_encoder/config.json"
FAULTS: list[tuple[Change, str]] = [
    (lambda root: shutil.rmtree(root), "{root}: no such folder: expected the folders of Open-Sora 1.2 ("),
    (lambda root: shutil.rmtree(root / "vae"), "{root}: no vae: expected the folders of Open-Sora 1.2 ("),
    (
        setting(TRANSFORMER, architectures=["STDiT2"]),
        "transformer/config.json: architectures: expected STDiT3, got STDiT2: only Open-Sora 1.2 is taken",
    ),
    (setting(TRANSFORMER, skip_y_embedder=True), "transformer/config.json: skip_y_embedder: true: only models that"),
    (setting(TRANSFORMER, patch_size=[2, 2, 2]), "transformer/config.json: patch_size: [2, 2, 2]: only patches of one"),
    (setting(TRANSFORMER, depth="2"), "transformer/config.json: builds no model ("),
    (setting(TRANSFORMER, depth=10**6), "transformer/config.json: depth: 1000000, at most "),
    (setting(TRANSFORMER, depth=3), "model.safetensors: holds no spatial_blocks.2.scale_shift_table, which STDiT3 of"),
    (setting(TRANSFORMER, hidden_size=96), "STDiT3 of its config.json takes ["),
    (setting(TRANSFORMER, in_channels=16), "x_embedder.proj.weight is [48, 4, 1, 2, 2], STDiT3 of its config.json"),
    (without("transformer/model.safetensors", "y_embedder.y_embedding"), "holds no y_embedder.y_embedding, which"),
    (
        lambda root: (root / "transformer/model.safetensors").rename(root / "transformer/ema.pt"),
        "transformer/diffusion_pytorch_model.safetensors: no such file: there is ema.pt",
    ),
    (transformer_of(in_channels=8), "{root}: the transformer takes 8 channels, the vae has 4: of one model?"),
    (transformer_of(caption_channels=24), "tokens of 32 numbers, the transformer takes 24: are they of one model?"),
    (setting(VAE, architectures=["AutoencoderKL"]), "vae/config.json: architectures: expected VideoAutoenc"),
    (setting(VAE, micro_frame_size=33), "vae/config.json: micro_frame_size: 33: only 17 is taken"),
    (setting(VAE, scale=[1.0]), "vae/config.json: builds no model (scale: expected 4 numbers, one for each channel, "),
    (setting(VAE, vae_temporal={"filters": 8, "blocks": 1, "groups": 4, "halves": [True] * 3}), "8 frames to a latent"),
    (setting(VAE, vae_temporal={"blocks": 10**9}), "vae/config.json: blocks: 1000000000, at most "),
    (without("vae/model.safetensors", "temporal_vae.quant_conv.conv.bias"), "holds no temporal_vae.quant_conv.conv.b"),
    (setting(TEXT, architectures=["UMT5EncoderModel"]), "text_encoder/config.json: architectures: expected T5Encod"),
    (setting(TEXT, d_model=64), "T5EncoderModel of its config.json takes ["),
    (lambda root: (root / "tokenizer/tokenizer.json").unlink(), "tokenizer/tokenizer.json: no such file, and"),
]


@pytest.mark.parametrize(("change", "line"), FAULTS, ids=[line[:60] for _, line in FAULTS])
def test_what_is_not_a_whole_model_of_this_kind_is_one_line(
    opensora: Path, tmp_path: Path, change: Change, line: str
) -> None:
    root = shutil.copytree(opensora, tmp_path / "model")
    change(root)
    with pytest.raises(UserError) as refused:
        check_released(root)
    text = str(refused.value)
    assert line.format(root=root) in text and "\n" not in text and text.startswith(str(root))


def test_a_folder_of_another_kind_is_named(opensora: Path) -> None:
    for kind in ("tiny", "wan"):
        with pytest.raises(UserError, match='set model.kind = "opensora"'):
            check_any(opensora, ModelConfig(kind=kind))
    with pytest.raises(UserError, match='"opensora" without init'):
        MODELS["opensora"].outline(CONFIG, None)


def test_the_caption_that_is_too_long_is_cut_to_300_tokens(model: WorldModel) -> None:
    text = model.text(["ball " * 400])
    assert text.shape[1] == 300 and (text != 0).any(-1).all()
