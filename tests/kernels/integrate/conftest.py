"""Tiny random video transformers of diffusers, each with the arguments of one call."""

import pytest
import torch


def numbers(*shape, seed, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def wan(dtype, image=False):
    from diffusers import WanTransformer3DModel

    extra = {"image_dim": 12, "added_kv_proj_dim": 32, "pos_embed_seq_len": None} if image else {}
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=10, freq_dim=8,
        ffn_dim=24, num_layers=2, rope_max_seq_len=16, **extra,
    )  # fmt: skip
    words = 512 if image else 7
    call = {
        "hidden_states": numbers(2, 4, 3, 4, 6, seed=1, dtype=dtype),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": numbers(2, words, 10, seed=2, dtype=dtype),
    }
    if image:
        call["encoder_hidden_states_image"] = numbers(2, 5, 12, seed=3, dtype=dtype)
    return model, call


def cogvideox(dtype, rotary=True):
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    model = CogVideoXTransformer3DModel(
        num_attention_heads=3, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=10, num_layers=2, sample_width=6, sample_height=4, sample_frames=9, max_text_seq_length=5,
        use_rotary_positional_embeddings=rotary,
    )  # fmt: skip
    call = {
        "hidden_states": numbers(2, 3, 4, 4, 6, seed=1, dtype=dtype),
        "encoder_hidden_states": numbers(2, 5, 10, seed=2, dtype=dtype),
        "timestep": torch.tensor([3, 700]),
    }
    if rotary:  # a crop: its positions are no whole numbers
        call["image_rotary_emb"] = get_3d_rotary_pos_embed(16, ((0, 1), (3, 2)), (2, 3), 3)
    return model, call


def latte(dtype):
    from diffusers import LatteTransformer3DModel

    model = LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=16, attention_bias=True, sample_size=4, patch_size=2, norm_type="ada_norm_single",
        norm_elementwise_affine=False, activation_fn="gelu-approximate", caption_channels=10, video_length=3,
    )  # fmt: skip
    call = {
        "hidden_states": numbers(2, 4, 3, 4, 4, seed=1, dtype=dtype),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": numbers(2, 5, 10, seed=2, dtype=dtype),
    }
    return model, call


def ltx(dtype):
    from diffusers import LTXVideoTransformer3DModel

    model = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=2, caption_channels=10,
    )  # fmt: skip
    call = {
        "hidden_states": numbers(2, 3 * 2 * 3, 4, seed=1, dtype=dtype),
        "encoder_hidden_states": numbers(2, 6, 10, seed=2, dtype=dtype),
        "timestep": torch.tensor([3, 700]),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 1]]),  # not all valid ones first
        "num_frames": 3,
        "height": 2,
        "width": 3,
    }
    return model, call


def hunyuan(dtype):
    from diffusers import HunyuanVideoTransformer3DModel

    model = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=2,
        num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=10, pooled_projection_dim=6, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    call = {
        "hidden_states": numbers(2, 4, 3, 4, 6, seed=1, dtype=dtype),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": numbers(2, 6, 10, seed=2, dtype=dtype),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]),
        "pooled_projections": numbers(2, 6, seed=3, dtype=dtype),
        "guidance": torch.tensor([6.0, 1.0], dtype=dtype),
    }
    return model, call


BUILDERS = {
    "wan": wan,
    "wan-image": lambda dtype: wan(dtype, image=True),
    "cogvideox": cogvideox,
    "cogvideox-without-rope": lambda dtype: cogvideox(dtype, rotary=False),
    "latte": latte,
    "ltx": ltx,
    "hunyuan": hunyuan,
}


def random_model(name, dtype=torch.float32):
    """(model, arguments): weights from a fixed seed, spread so that scores are far from equal and no norm is plain."""
    torch.manual_seed(5)
    model, call = BUILDERS[name](dtype)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "norm" in path:
                weight += 0.3 * torch.randn_like(weight)
            elif name == "latte" and ("to_q" in path or "to_k" in path):
                weight *= 4
    return model.to(dtype), call


def output_and_gradients(model, call):
    """(output, gradients of all weights and floating inputs by name)."""
    call = {
        key: value.clone().requires_grad_() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in call.items()
    }
    out = model(**call, return_dict=False)[0]
    leaves = dict(model.named_parameters()) | {
        key: value for key, value in call.items() if isinstance(value, torch.Tensor) and value.requires_grad
    }
    dout = numbers(*out.shape, seed=9, dtype=out.dtype).to(out.device)
    gradients = torch.autograd.grad(out, list(leaves.values()), dout, allow_unused=True)
    return out.detach(), dict(zip(leaves, gradients, strict=True))


def close(found, expected, tolerance):
    """Outputs and gradients by their largest entry; gradients that are 0 in theory by a hundredth of the largest."""
    (out, gradients), (true_out, true_gradients) = found, expected
    assert (out - true_out).abs().max() <= tolerance * true_out.abs().max()
    assert gradients.keys() == true_gradients.keys()
    floor = 0.01 * max(g.abs().max() for g in true_gradients.values() if g is not None)
    for name, true in true_gradients.items():
        assert (gradients[name] is None) == (true is None), name
        if true is not None:
            error = (gradients[name] - true).abs().max()
            assert error <= tolerance * max(true.abs().max(), floor), f"{name}: {error:.1e} of {true.abs().max():.1e}"


def equal(found, expected):
    assert torch.equal(found[0], expected[0])
    for name, gradient in expected[1].items():
        assert found[1][name] is None if gradient is None else torch.equal(found[1][name], gradient), name


def processors_by_path(model):
    return {path: module for path, module in model.named_modules() if hasattr(module, "set_processor")}


@pytest.fixture(scope="session")
def build():
    """(name, dtype) -> (model, arguments)."""
    return random_model


@pytest.fixture(scope="session")
def run():
    """(model, arguments) -> (output, gradients)."""
    return output_and_gradients


@pytest.fixture(scope="session")
def assert_close():
    """(found, expected, tolerance), both (output, gradients)."""
    return close


@pytest.fixture(scope="session")
def assert_equal():
    """The same, bit for bit."""
    return equal


@pytest.fixture(scope="session")
def attention_modules():
    """model -> modules with a processor, by path."""
    return processors_by_path
