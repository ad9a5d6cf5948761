"""STDiT3 against its equations in fp64, and the names and numbers of its published weights."""

import pytest
import torch
from torch import Tensor

from phys4d.models.opensora.transformer import STDiT3
from tests.models.opensora import equations

PAIRS, HEADS = 2, 2


def small() -> STDiT3:
    torch.manual_seed(0)
    model = STDiT3(
        hidden_size=32, depth=PAIRS, num_heads=HEADS, caption_channels=12, model_max_length=6, input_sq_size=40
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.double()


@pytest.mark.parametrize("noised", [None, [[False, True, True], [True, True, False]]])
def test_output_and_all_gradients_are_those_of_the_equations(noised: object) -> None:
    """Each of two clips has its own timestep, frames a second and length of its caption; frames are not square."""
    model = small()
    x = torch.randn(2, 4, 3, 4, 8, dtype=torch.float64)
    timestep, fps, pixels = torch.tensor([701.3, 20.7]), torch.tensor([24.0, 8.0]), (32, 64)
    text, lengths = torch.randn(2, 6, 12, dtype=torch.float64), torch.tensor([4, 6])
    mask = torch.ones(2, 3, dtype=torch.bool) if noised is None else torch.tensor(noised)
    frames = mask[:, None, :, None, None]
    weight = torch.randn(2, 8, 3, 4, 8, dtype=torch.float64)

    def gradients(output: Tensor, latents: Tensor) -> dict[str, Tensor]:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad} | {"latents": latents}
        grads = torch.autograd.grad((output * weight * frames).sum(), list(named.values()))
        return dict(zip(named, grads, strict=True))

    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    output = model(ours, timestep, text, lengths, fps, pixels, None if noised is None else mask)
    captions = [tokens[:n] for tokens, n in zip(text, lengths.tolist(), strict=True)]
    weights = dict(model.named_parameters())
    expected = equations.stdit3(weights, HEADS, theirs, timestep, captions, fps, pixels, mask, PAIRS, 40)
    assert output.shape == (2, 8, 3, 4, 8)
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)  # places and tables of timesteps are in fp32
    found, wanted = gradients(output, ours), gradients(expected, theirs)
    for name, gradient in wanted.items():
        scale = gradient.abs().max()
        difference = ((found[name] - gradient) / scale).abs().max()
        assert difference < 1e-5, name


def test_the_names_of_its_weights_are_those_of_the_published_file() -> None:
    """As the public class names them; the transformer is loaded from that file by name."""
    block = {f"{name}.{kind}" for kind in ("weight", "bias") for name in (
        "attn.qkv", "attn.proj", "cross_attn.q_linear", "cross_attn.kv_linear", "cross_attn.proj", "mlp.fc1", "mlp.fc2"
    )} | {"attn.q_norm.weight", "attn.k_norm.weight", "scale_shift_table"}  # fmt: skip
    other = {f"{name}.{kind}" for kind in ("weight", "bias") for name in (
        "x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "fps_embedder.mlp.0", "fps_embedder.mlp.2",
        "t_block.1", "y_embedder.y_proj.fc1", "y_embedder.y_proj.fc2", "final_layer.linear",
    )} | {"y_embedder.y_embedding", "final_layer.scale_shift_table", "rope.freqs"}  # fmt: skip
    blocks = {f"{kind}_blocks.{k}.{name}" for kind in ("spatial", "temporal") for k in range(PAIRS) for name in block}
    assert set(small().state_dict()) == other | blocks


def test_it_has_as_many_parameters_as_published() -> None:
    """1,207,643,936 are trained in the public class of STDiT3-XL/2 ("1.1B" on its page); beside them its file holds the
    tokens of no caption, 300 x 4096, and 36 frequencies."""
    with torch.device("meta"):
        model = STDiT3()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == 1_207_643_936
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == trained + 300 * 4096 + 36
    assert model.spatial_blocks[27].attn.qkv.weight.shape == (3456, 1152) and len(model.blocks) == 56


def test_frequencies_of_the_rotation_are_the_stored_ones() -> None:
    rate = 10000 ** (-torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(STDiT3(hidden_size=32, depth=1, num_heads=2, caption_channels=4).rope.freqs, rate)


def test_blocks_alternate_and_a_temporal_one_moves_nothing_between_places() -> None:
    model = small()
    assert [block.attn.temporal for block in model.blocks] == [False, True] * PAIRS
    grid, rope = (3, 2, 2), model.rope((3, 2, 2), torch.device("cpu"), torch.float64)
    x, text = torch.randn(1, 12, 32, dtype=torch.float64), torch.randn(1, 2, 32, dtype=torch.float64)
    changed = x.clone()
    changed[:, 0] += 1  # the first frame's first place
    for block, reached in ((model.blocks[0], [0, 1, 2, 3]), (model.blocks[1], [0, 4, 8])):
        a, b = (
            block(y, text, torch.tensor([2]), torch.zeros(1, 6, 32, dtype=torch.float64), grid, rope)
            for y in (x, changed)
        )
        assert (a != b).any(-1).nonzero()[:, 1].tolist() == reached


@pytest.mark.parametrize(("settings", "said"), [({"hidden_size": 36, "num_heads": 8}, "hidden_size 36: needs a")])
def test_widths_that_do_not_divide_are_refused(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        STDiT3(**settings)


def test_latents_of_half_a_patch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"latents of \[3, 5, 8\]: sides must be multiples of \[1, 2, 2\]"):
        small()(torch.zeros(1, 4, 3, 5, 8), *[torch.zeros(1)] * 2, torch.ones(1), torch.ones(1), (40, 64))
