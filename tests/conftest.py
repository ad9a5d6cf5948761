"""What every test shares: no hidden randomness between runs, and GPU tests skipped where there is no GPU."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("hypothesis"):  # the tests of a GPU run without it
    import hypothesis

    # No time limit per example (two shared cores), and the same examples in every run.
    hypothesis.settings.register_profile("house", deadline=None, derandomize=True, max_examples=25)
    hypothesis.settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Behind a test that starts `Parallel` and does not close it, subnormal numbers are no longer zero."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).parent.parent


SCHEDULER = {  # of the published Wan2.2-TI2V-5B-Diffusers
    "_class_name": "UniPCMultistepScheduler", "_diffusers_version": "0.35.0.dev0", "beta_end": 0.02,
    "beta_schedule": "linear", "beta_start": 0.0001, "disable_corrector": [], "dynamic_thresholding_ratio": 0.995,
    "final_sigmas_type": "zero", "flow_shift": 5.0, "lower_order_final": True, "num_train_timesteps": 1000,
    "predict_x0": True, "prediction_type": "flow_prediction", "rescale_betas_zero_snr": False, "sample_max_value": 1.0,
    "solver_order": 2, "solver_p": None, "solver_type": "bh2", "steps_offset": 0, "thresholding": False,
    "timestep_spacing": "linspace", "trained_betas": None, "use_beta_sigmas": False, "use_exponential_sigmas": False,
    "use_flow_sigmas": True, "use_karras_sigmas": False,
}  # fmt: skip


@pytest.fixture(scope="session")
def write_released() -> Callable[..., Path]:
    """Writes a folder in the layout and dtypes of the published Wan2.2-TI2V-5B-Diffusers, small, random weights.

    UMT5 in bf16, transformer and VAE in fp32, weights in shards with an index. Latents are 4 x 16 x 16 pixels with 8
    channels, so clips of 1 + 4 k frames and sides of multiples of 32. text: the dtype of UMT5; transformer: that of the
    transformer; words: of the tokenizer.
    """

    def write(
        root: Path, *, text: torch.dtype = torch.bfloat16, transformer: torch.dtype = torch.float32, words: str = ""
    ) -> Path:
        from diffusers import AutoencoderKLWan, WanTransformer3DModel
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = WanTransformer3DModel(
                patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=24, in_channels=8, out_channels=8,
                text_dim=32, freq_dim=32, ffn_dim=64, num_layers=3, rope_max_seq_len=64,
            )  # fmt: skip
            vae = AutoencoderKLWan(
                base_dim=8, decoder_base_dim=8, z_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True,
                in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16, scale_factor_temporal=4,
                temperal_downsample=[False, True, True], latents_mean=[0.1] * 8, latents_std=[2.0] * 8,
            )  # fmt: skip
            every = ["<pad>", "</s>", "<unk>", "a", "red", "ball", "falls", *words.split()]
            encoder = UMT5EncoderModel(
                UMT5Config(vocab_size=max(16, len(every)), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
            )
        net.to(transformer).save_pretrained(root / "transformer", max_shard_size="100KB")
        vae.save_pretrained(root / "vae")
        encoder.to(text).save_pretrained(root / "text_encoder", max_shard_size="5KB")
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(every)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ).save_pretrained(root / "tokenizer")
        (root / "scheduler").mkdir()
        (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
        parts = {
            "scheduler": ["diffusers", "UniPCMultistepScheduler"], "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "T5TokenizerFast"], "transformer": ["diffusers", "WanTransformer3DModel"],
            "transformer_2": [None, None], "vae": ["diffusers", "AutoencoderKLWan"],
        }  # fmt: skip
        index = {"_class_name": "WanPipeline", "boundary_ratio": None, "expand_timesteps": True, **parts}
        (root / "model_index.json").write_text(json.dumps(index, indent=2))
        return root

    return write


@pytest.fixture(scope="session")
def released(write_released: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder, in the published dtypes; tests do not change it."""
    return write_released(tmp_path_factory.mktemp("released") / "wan")


@pytest.fixture(scope="session")
def write_opensora() -> Callable[[Path], Path]:
    """Writes a folder of Open-Sora 1.2 as its parts are published, small, random weights.

    Two pairs of blocks with two heads of 24 channels; latents are 4 x 8 x 8 pixels with 4 channels, so clips of 1 + 4 k
    frames and sides of multiples of 16.
    """

    def write(root: Path) -> Path:
        from safetensors.torch import save_file
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

        from phys4d.models.opensora.codec import OpenSoraVAE
        from phys4d.models.opensora.transformer import STDiT3

        settings = {"hidden_size": 48, "depth": 2, "num_heads": 2, "caption_channels": 32, "input_size": [None] * 3}
        vae = {
            "micro_frame_size": 17, "shift": [-0.1, 0.34, 0.27, 0.98], "scale": [0.85, 0.32, 0.33, 0.6],
            "vae_2d": {"type": "VideoAutoencoderKL", "block_out_channels": [8] * 4, "layers_per_block": 1,
                       "norm_num_groups": 4},
            "vae_temporal": {"type": "VAE_Temporal_SD", "filters": 8, "blocks": 1, "groups": 4},
        }  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            taken = {key: value for key, value in settings.items() if key != "input_size"}
            parts = {"transformer": STDiT3(**taken), "vae": OpenSoraVAE(vae)}
            encoder = T5EncoderModel(T5Config(vocab_size=16, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
        for (name, module), table in zip(parts.items(), (settings, vae), strict=True):
            (root / name).mkdir(parents=True)
            save_file(module.state_dict(), root / name / "model.safetensors")
            published = {"transformer": "STDiT3", "vae": "VideoAutoencoderPipeline"}[name]
            config = {"architectures": [published], "model_type": published, "torch_dtype": "float32", **table}
            (root / name / "config.json").write_text(json.dumps(config, indent=2))
        encoder.to(torch.bfloat16).save_pretrained(root / "text_encoder")
        words = ["<pad>", "</s>", "<unk>", "a", "red", "ball", "falls"]
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ).save_pretrained(root / "tokenizer")
        return root

    return write


@pytest.fixture(scope="session")
def opensora(write_opensora: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder; tests do not change it."""
    return write_opensora(tmp_path_factory.mktemp("released") / "opensora")
