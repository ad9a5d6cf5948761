"""Small folders in the layout of the published Wan2.1-T2V and Wan2.1-I2V, with random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.stages.conftest import session, write_clips  # noqa: F401 (fixtures)

CHANNELS, IMAGE_DIM = 4, 16


@pytest.fixture(scope="session")
def write_wan21(released: Path) -> Callable[..., Path]:
    """Writes such a folder; latents are 4 x 8 x 8 pixels with 4 channels. image: of image to video, whose CLIP gives 5
    tokens of 16 numbers. Text encoder and tokenizer are those of the small Wan2.2."""

    def write(root: Path, *, image: bool = False) -> Path:
        from diffusers import AutoencoderKLWan, WanTransformer3DModel

        extra = {"in_channels": 3 * CHANNELS, "image_dim": IMAGE_DIM, "added_kv_proj_dim": 48} if image else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            settings = {
                "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": CHANNELS,
                "out_channels": CHANNELS, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64, "num_layers": 3,
                "rope_max_seq_len": 64,
            }  # fmt: skip
            net = WanTransformer3DModel(**settings | extra)
            vae = AutoencoderKLWan(
                base_dim=8, z_dim=CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1, 0.0, -0.2, 0.3],
                latents_std=[2.0, 1.0, 0.5, 1.5],
            )  # fmt: skip
            for parameter in vae.parameters():  # of its own, grey frames would be grey latents
                parameter.data.add_(0.05 * torch.randn_like(parameter))
        net.save_pretrained(root / "transformer", max_shard_size="100KB")
        vae.save_pretrained(root / "vae")
        for part in ("text_encoder", "tokenizer", "scheduler"):
            shutil.copytree(released / part, root / part)
        scheduler = root / "scheduler" / "scheduler_config.json"
        scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"flow_shift": 3.0}))
        index = {"_class_name": "WanImageToVideoPipeline" if image else "WanPipeline"}
        (root / "model_index.json").write_text(json.dumps(index))
        if image:
            write_image_encoder(root)
        return root

    return write


def write_image_encoder(root: Path) -> None:
    """image_encoder/ and image_processor/, of which pictures are resized and cropped to 28 x 28."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=IMAGE_DIM, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=28,
        patch_size=14,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        CLIPVisionModel(config).save_pretrained(root / "image_encoder")
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    CLIPImageProcessorPil(**size).save_pretrained(root / "image_processor")


@pytest.fixture(scope="session", params=["text", "image"])
def wan21(
    request: pytest.FixtureRequest, write_wan21: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as of Wan2.1-T2V, then of -I2V; tests do not change it."""
    root = tmp_path_factory.mktemp("released") / f"wan21-{request.param}"
    return write_wan21(root, image=request.param == "image")
