"""`phys4d export` of CogVideoX and Open-Sora: what was written gives the video of the trained model elsewhere."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from phys4d.cli import main
from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.opensora.backbone import OpenSoraBackbone
from phys4d.models.opensora.transformer import STDiT3
from phys4d.models.placement import place
from phys4d.models.world import WorldModel
from tests.models.cogvideox.conftest import cogvideox, write_cogvideox  # noqa: F401 (fixtures)
from tests.models.trained_lora import add_lora


def trained(source: Path, kind: str, out: Path) -> WorldModel:
    """A model with two adapters that act, saved as the last stage saves it."""
    model = folder.released(source, ModelConfig(kind=kind, taps=(0,)), (9, 32, 32)).model
    for seed, name in enumerate(("finetune", "reinforce")):
        add_lora(model, name, seed=seed)
    model = place(model.eval(), Parallel.alone())
    folder.save(model, out, stage="reinforce", base=source)
    return model


def export(model: Path, out: Path, *words: str) -> Path:
    assert main(["export", str(model), "--out", str(out), *words]) == 0
    return out


def video(source: Path, transformer: Any = None, lora: Path | None = None) -> Tensor:
    """What a stock pipeline makes of a folder, with another transformer or a LoRA."""
    reads_image = CogVideoXTransformer3DModel.load_config(source / "transformer")["in_channels"] == 8
    stock = CogVideoXTransformer3DModel.from_pretrained(source / "transformer") if transformer is None else transformer
    pipeline = (CogVideoXImageToVideoPipeline if reads_image else CogVideoXPipeline)(
        tokenizer=AutoTokenizer.from_pretrained(source / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(source / "text_encoder", dtype=torch.float32),
        vae=AutoencoderKLCogVideoX.from_pretrained(source / "vae"), transformer=stock,
        scheduler=CogVideoXDDIMScheduler.from_pretrained(source / "scheduler"),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora))
    image = {"image": Image.linear_gradient("L").resize((32, 32)).convert("RGB")} if reads_image else {}
    return pipeline(
        **image, prompt="a red ball falls", height=32, width=32, num_frames=9, num_inference_steps=3,
        guidance_scale=1.0, max_sequence_length=10, generator=torch.Generator().manual_seed(0), output_type="pt",
    ).frames  # fmt: skip


def test_stock_pipelines_give_the_video_of_a_trained_cogvideox(cogvideox: Path, tmp_path: Path) -> None:  # noqa: F811
    model = trained(cogvideox, "cogvideox", tmp_path / "model-reinforce")
    expected, before = video(cogvideox, model.backbone.transformer), video(cogvideox)
    assert (expected - before).abs().max() > 1e-3
    whole = export(tmp_path / "model-reinforce", tmp_path / "whole")
    torch.testing.assert_close(video(whole, lora=whole / "lora"), expected, rtol=1e-4, atol=1e-4)
    merged = export(tmp_path / "model-reinforce", tmp_path / "merged", "--merged")
    torch.testing.assert_close(video(merged), expected, rtol=1e-4, atol=1e-4)


def test_an_exported_opensora_is_read_by_its_published_names_and_by_peft(opensora: Path, tmp_path: Path) -> None:
    """diffusers has no class for it: its README.md says so and names the command that reads the folder."""
    model = trained(opensora, "opensora", tmp_path / "model-reinforce")
    draw = torch.Generator().manual_seed(2)
    latents, text = torch.randn(1, 4, 3, 4, 4, generator=draw), model.text(["a red ball"])
    sigma = torch.tensor([0.6])
    with torch.no_grad():
        expected = model.predict(latents, sigma, text).velocity
    whole = export(tmp_path / "model-reinforce", tmp_path / "whole")
    merged = export(tmp_path / "model-reinforce", tmp_path / "merged", "--merged")
    assert 'phys4d generate --model "THIS FOLDER" --lora "THIS FOLDER/lora"' in (whole / "README.md").read_text()
    assert "--lora" not in (text_of := (merged / "README.md").read_text()) and "diffusers import" not in text_of
    published, written = (load_file(path / "transformer" / "model.safetensors") for path in (opensora, merged))
    assert published.keys() == written.keys()

    def velocity(source: Path, lora: Path | None) -> Tensor:
        transformer: Any = STDiT3.from_config(model.backbone.transformer.config)
        transformer.load_state_dict(load_file(source / "transformer" / "model.safetensors"))
        if lora is not None:
            transformer = PeftModel.from_pretrained(transformer, lora).base_model.model
        with torch.no_grad():
            return OpenSoraBackbone(transformer.eval(), ())(latents, sigma, text).velocity

    assert (velocity(opensora, None) - expected).abs().max() > 1e-3
    torch.testing.assert_close(velocity(merged, None), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(velocity(whole, whole / "lora"), expected, rtol=1e-4, atol=1e-4)
