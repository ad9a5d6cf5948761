"""Whole pipelines of diffusers, small and random: their videos with acceleration, after it, and with LoRA."""

import pytest
import torch

from phys4d.kernels.integrate.diffusers import accelerate

WORDS = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(4))


def wan(released):
    """Wan2.2-TI2V with its text encoder, from the files of a tiny release."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5EncoderModel

    pipe = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(released / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(released / "text_encoder", dtype=torch.float32),
        vae=AutoencoderKLWan.from_pretrained(released / "vae"),
        scheduler=UniPCMultistepScheduler.from_pretrained(released / "scheduler"),
        transformer=WanTransformer3DModel.from_pretrained(released / "transformer"), expand_timesteps=True,
    )  # fmt: skip
    return pipe, {"prompt": "a red ball falls", "height": 64, "width": 64, "num_frames": 5, "guidance_scale": 1.0}


def cogvideox(released):
    """CogVideoX, given embedded words, with guidance."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel, DDIMScheduler

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=4,
        text_embed_dim=32, num_layers=2, sample_width=2, sample_height=2, sample_frames=9, max_text_seq_length=6,
        use_rotary_positional_embeddings=True,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    pipe = CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=DDIMScheduler()
    )
    given = {"prompt_embeds": WORDS, "negative_prompt_embeds": -WORDS, "height": 16, "width": 16, "num_frames": 9}
    return pipe, given | {"guidance_scale": 3.0}


def ltx(released):
    """LTX, given embedded words of which two are padding."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=2, caption_channels=32,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5, spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False), decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4, upsample_factor=(1,) * 4, patch_size=1,
    )  # fmt: skip
    pipe = LTXPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    mask = torch.tensor([[1, 1, 0, 1, 1, 0]])
    given = {"prompt_embeds": WORDS, "prompt_attention_mask": mask, "height": 32, "width": 32, "num_frames": 9}
    return pipe, given | {"guidance_scale": 1.0}


PIPELINES = {"wan": wan, "cogvideox": cogvideox, "ltx": ltx}


def video(pipe, given):
    """The frames of a call with fixed noise."""
    noise = torch.Generator().manual_seed(0)
    return pipe(**given, num_inference_steps=2, generator=noise, output_type="pt").frames


def adapt(pipe):
    """LoRA of random weights on all projections of attention."""
    import peft

    torch.manual_seed(3)
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, lora_alpha=8, target_modules=names, init_lora_weights=False))


@pytest.fixture(params=PIPELINES, scope="module")
def make(request, released):
    """() -> (a pipeline, the arguments of a call), each time with the same weights."""

    def made():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            pipe, given = PIPELINES[request.param](released)
        pipe.set_progress_bar_config(disable=True)
        return pipe, given

    return made


@pytest.fixture(scope="module")
def truths(make):
    """Videos of diffusers alone: as it is, and with LoRA."""
    pipe, given = make()
    plain = video(pipe, given)
    adapt(pipe)
    return plain, video(pipe, given)


def test_a_pipeline_gives_its_own_video_and_to_the_bit_after_undo(make, truths):
    pipe, given = make()
    with accelerate(pipe) as accelerated:
        found = video(pipe, given)
        assert not accelerated.left and not accelerated.passed and not accelerated.called
        assert len(accelerated.swapped) >= 4
    torch.testing.assert_close(found, truths[0], rtol=0, atol=1e-5)
    assert torch.equal(video(pipe, given), truths[0])


@pytest.mark.parametrize("order", ["before", "after"])
def test_lora_may_be_loaded_before_or_after(order, make, truths):
    pipe, given = make()
    if order == "before":
        adapt(pipe)
    accelerated = accelerate(pipe)
    if order == "after":
        adapt(pipe)
    found = video(pipe, given)
    assert (truths[1] - truths[0]).abs().max() > 1e-4
    torch.testing.assert_close(found, truths[1], rtol=0, atol=1e-5)
    accelerated.undo()
    assert torch.equal(video(pipe, given), truths[1])
