"""Published dtypes, in any mixture, load and train: UMT5 in bf16, transformer and autoencoder in fp32 or bf16."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder as model_folder
from phys4d.models.backbone import Precision
from phys4d.models.config import ModelConfig
from phys4d.models.lora import add_adapter
from phys4d.models.placement import place
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.world import WorldModel, create_model

CONFIG = ModelConfig(kind="wan", taps=(0, 2), sampling_steps=2)
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def folders(write_released: Write, released: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in four mixtures of dtypes."""
    root = tmp_path_factory.mktemp("dtypes")
    vae = shutil.copytree(released, root / "vae")
    weights = vae / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    return {
        "published": released,
        "all fp32": write_released(root / "fp32", text=torch.float32),
        "transformer bf16": write_released(root / "transformer", transformer=torch.bfloat16),
        "vae bf16": vae,
    }


def load(folder: Path) -> WorldModel:
    return place(model_folder.released(folder, CONFIG, (5, 32, 64), seed=0).model, Parallel.alone())


def batch(model: WorldModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    clean = model.codec.encode(torch.rand(2, 3, 5, 32, 64, generator=draw) * 2 - 1)
    noise = torch.randn(clean.shape, generator=draw)
    return clean, noise, torch.tensor([0.7, 0.2]), model.text(["a red ball falls", "a ball"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["published", "all fp32", "transformer bf16", "vae bf16"])
def test_every_mixture_of_dtypes_trains(folders: dict[str, Path], kind: str, precision: Precision) -> None:
    """Heads from the frozen transformer, then a LoRA through it, then a sample that is read and decoded."""
    model = load(folders[kind])
    model.backbone.precision = precision
    transformer = model.backbone.transformer
    clean, noise, sigma, text = batch(model)
    assert {t.dtype for t in (clean, text, *transformer.parameters(), *model.heads.parameters())} == {torch.float32}
    model.heads.requires_grad_(True)
    geometry = model.read_geometry(clean, text, noise)
    (geometry.depth.mean() + geometry.motion.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.heads.parameters())
    add_adapter(transformer, "finetune", 2, 0, targets=WanBackbone.lora_targets)
    prediction = model.predict(model.noised(clean, noise, sigma), sigma, text)
    loss = model.backbone.diffusion_loss(prediction, clean, noise, sigma)
    loss.backward()
    grads = {name: p.grad for name, p in transformer.named_parameters() if "lora_B" in name}
    assert loss.dtype == torch.float32 and grads
    assert all(g is not None and g.dtype == torch.float32 and g.abs().max() > 0 for g in grads.values())
    with torch.no_grad():
        drawn = model.generate(clean[:, :, :1], text, noise)
        video = model.codec.decode(drawn)
    assert drawn.dtype == video.dtype == torch.float32 and video.shape == (2, 3, 5, 32, 64)


def test_storage_in_bf16_rounds_the_weights_and_nothing_else(folders: dict[str, Path]) -> None:
    whole, stored = load(folders["published"]), load(folders["transformer bf16"])
    pairs = zip(whole.backbone.transformer.parameters(), stored.backbone.transformer.parameters(), strict=True)
    for exact, rounded in pairs:
        assert torch.equal(exact.bfloat16().float(), rounded)
    vae = load(folders["vae bf16"])
    for exact, rounded in zip(whole.codec.vae.parameters(), vae.codec.vae.parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(exact.bfloat16().float(), rounded)
    assert whole.text.model.dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert load(folders["all fp32"]).text.model.dtype == torch.float32  # type: ignore[attr-defined]
    torch.testing.assert_close(batch(vae)[0], batch(whole)[0], rtol=0.05, atol=0.05)


def test_heads_over_a_released_backbone_are_the_same_in_every_run(released: Path) -> None:
    torch.manual_seed(1)
    first = model_folder.released(released, CONFIG, (5, 32, 64), seed=3).model.heads.state_dict()
    torch.manual_seed(2)
    again = model_folder.released(released, CONFIG, (5, 32, 64), seed=3).model.heads.state_dict()
    other = model_folder.released(released, CONFIG, (5, 32, 64), seed=4).model.heads.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["depth.edges.weight"], other["depth.edges.weight"])


def test_steps_and_shift_of_the_folder_are_used_and_written_down(released: Path, tmp_path: Path) -> None:
    model = model_folder.released(released, ModelConfig(kind="wan", taps=(0,)), (5, 32, 64)).model
    assert (model.config.sampling_steps, model.config.sampling_shift) == (50, 5.0)
    model_folder.save(model, tmp_path / "model", stage="pretrain", base=released)
    again = model_folder.load(tmp_path / "model").model.config
    assert (again.sampling_steps, again.sampling_shift) == (50, 5.0)
    said = ModelConfig(kind="wan", taps=(0,), sampling_steps=3, sampling_shift=2.0)
    settled = model_folder.released(released, said, (5, 32, 64)).model.config
    assert (settled.sampling_steps, settled.sampling_shift) == (3, 2.0)


def test_loading_and_saving_print_nothing(
    released: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    model = load(released)
    model.text(["a ball"])
    for name in ("finetune", "reinforce"):
        add_adapter(model.backbone.transformer, name, 2, 0, targets=model.backbone.lora_targets)
    model_folder.save(model, tmp_path / "model", stage="reinforce", base=released)
    model_folder.load(tmp_path / "model")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "") and not [str(w.message) for w in recwarn]


@pytest.mark.parametrize("kind", ["tiny", "wan"])
def test_every_tensor_of_a_model_moves_with_it(released: Path, kind: str) -> None:
    """torch's meta device stands for another one: an operation with a tensor left behind fails there."""
    if kind == "wan":
        model, size = load(released), (1, 8, 2, 2, 4)
    else:
        model, size = create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 32, 64, seed=0), (1, 192, 2, 8, 16)
    text = model.text(["a ball"])
    model.to("meta")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert len(tensors) > 50 and not [name for name, tensor in tensors.items() if not tensor.is_meta]
    clean = model.codec.encode(torch.zeros(1, 3, 5, 32, 64, device="meta"))
    assert clean.is_meta and clean.shape == size
    drawn = model.generate(clean[:, :, :1], text.to("meta"), clean)
    geometry = model.read_geometry(drawn, text.to("meta"), clean)
    assert geometry.depth.is_meta and model.codec.decode(drawn).is_meta
