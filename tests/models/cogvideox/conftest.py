"""Small folders in the layout of the published CogVideoX-5B and CogVideoX-5B-I2V, with random weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.stages.conftest import session  # noqa: F401 (a fixture)

SCHEDULER = {  # of the published CogVideoX-5B
    "_class_name": "CogVideoXDDIMScheduler", "_diffusers_version": "0.30.0.dev0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "clip_sample_range": 1.0,
    "num_train_timesteps": 1000, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    "sample_max_value": 1.0, "set_alpha_to_one": True, "snr_shift_scale": 1.0, "steps_offset": 0,
    "timestep_spacing": "trailing", "trained_betas": None,
}  # fmt: skip


@pytest.fixture(scope="session")
def write_cogvideox() -> Callable[..., Path]:
    """Writes such a folder; latents are 4 x 8 x 8 pixels with 4 channels. image: of I2V, which takes clips of 32 x 32
    pixels alone, and whose positions differ from those that its class computes. invert: `invert_scale_latents`."""

    def write(root: Path, *, image: bool = False, invert: bool = False) -> Path:
        from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = CogVideoXTransformer3DModel(
                num_attention_heads=2, attention_head_dim=16, in_channels=8 if image else 4, out_channels=4,
                time_embed_dim=16, text_embed_dim=32, num_layers=3, sample_width=4, sample_height=4, sample_frames=9,
                max_text_seq_length=10, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=image,
            )  # fmt: skip
            if image:
                net.float().patch_embed.pos_embedding.normal_()  # computed in fp64
            vae = AutoencoderKLCogVideoX(
                block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2,
                sample_height=64, sample_width=64, scaling_factor=0.7, invert_scale_latents=invert,
            )  # fmt: skip
            words = ["<pad>", "</s>", "<unk>", "a", "red", "ball", "falls", "square", "slides"]
            encoder = T5EncoderModel(T5Config(vocab_size=16, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
        net.save_pretrained(root / "transformer", max_shard_size="40KB")
        vae.save_pretrained(root / "vae")
        encoder.to(torch.bfloat16).save_pretrained(root / "text_encoder")
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ).save_pretrained(root / "tokenizer")
        (root / "scheduler").mkdir()
        (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
        index = {"_class_name": "CogVideoXImageToVideoPipeline" if image else "CogVideoXPipeline"}
        (root / "model_index.json").write_text(json.dumps(index))
        return root

    return write


@pytest.fixture(scope="session", params=["text", "image"])
def cogvideox(
    request: pytest.FixtureRequest, write_cogvideox: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as of CogVideoX-5B, then of -I2V, its autoencoder with inverted scale; tests do not change it."""
    root, image = tmp_path_factory.mktemp("released") / f"cogvideox-{request.param}", request.param == "image"
    return write_cogvideox(root, image=image, invert=image)
