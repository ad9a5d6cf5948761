"""A LoRA that was trained here changes the video of a stock pipeline as it changes ours."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.lora import add_adapter
from phys4d.models.placement import place
from phys4d.models.wan.backbone import WanBackbone


def test_an_exported_adapter_gives_a_stock_pipeline_our_video(released: Path, tmp_path: Path) -> None:
    model = place(
        folder.released(released, ModelConfig(kind="wan", taps=(0, 2)), (5, 64, 64)).model, Parallel.alone()
    )
    ours = model.backbone.transformer
    add_adapter(ours, "finetune", rank=4, seed=1, targets=WanBackbone.lora_targets)
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))
    folder.save(model, tmp_path / "model-finetune", stage="finetune", base=released)

    def pipeline(transformer: WanTransformer3DModel) -> WanPipeline:
        return WanPipeline(
            tokenizer=AutoTokenizer.from_pretrained(released / "tokenizer"),
            text_encoder=UMT5EncoderModel.from_pretrained(released / "text_encoder", dtype=torch.float32),
            vae=AutoencoderKLWan.from_pretrained(released / "vae"),
            scheduler=UniPCMultistepScheduler.from_pretrained(released / "scheduler"),
            transformer=transformer,
            expand_timesteps=True,
        )

    def video(pipe: WanPipeline) -> torch.Tensor:
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            "a red ball falls", height=64, width=64, num_frames=5, num_inference_steps=3, guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0), output_type="pt",
        ).frames  # fmt: skip

    stock = pipeline(WanTransformer3DModel.from_pretrained(released / "transformer"))
    before = video(stock)
    stock.load_lora_weights(str(tmp_path / "model-finetune" / "adapters" / "finetune"))
    assert stock.get_list_adapters()
    after, expected = video(stock), video(pipeline(ours))
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
