"""The backbone's weights: each rank reads its rows alone; frozen ones are held in bf16 and change no result."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.distributed.sharding import materialise
from phys4d.engine.errors import UserError
from phys4d.models import base_weights
from phys4d.models.base_weights import absent_weights, hold_frozen_in_bf16, read_own_parts, without_weights
from phys4d.models.config import ModelConfig
from phys4d.models.lora import SUPERVISED, add_adapter
from phys4d.models.placement import place
from phys4d.models.world import WorldModel, create_model


class Net(nn.Module):
    """A layer that peft has wrapped, a scalar, a table that is not stored and one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.wrapped = nn.ModuleDict({"base_layer": nn.Linear(4, 5)})
        self.scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("table", torch.arange(3.0), persistent=False)
        self.register_buffer("learned", torch.arange(2.0))


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, torch.Tensor]:
    tensors = {
        "wrapped.weight": torch.randn(5, 4), "wrapped.bias": torch.randn(5).to(torch.bfloat16),
        "scale": torch.tensor(3.0, dtype=torch.float16), "learned": torch.tensor([5.0, 6.0], dtype=torch.bfloat16),
    }  # fmt: skip
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    return tensors


def built() -> Net:
    with without_weights():
        net = Net()
    assert absent_weights(net) == ["scale", "wrapped.base_layer.weight", "wrapped.base_layer.bias", "learned"]
    assert net.table.tolist() == [0, 1, 2]  # real
    return net


def test_weights_of_any_float_dtype_are_read_into_what_was_built_without(
    stored: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    net = built()
    absent = absent_weights(net)
    materialise(net, torch.device("cpu"))
    read_own_parts(net, absent, tmp_path)
    layer = net.wrapped["base_layer"]
    assert torch.equal(layer.weight, stored["wrapped.weight"])
    assert torch.equal(layer.bias, stored["wrapped.bias"].float()) and layer.bias.dtype == torch.float32
    assert net.scale.item() == 3.0 and net.table.tolist() == [0, 1, 2]
    assert net.learned.tolist() == [5, 6] and absent_weights(net) == []


@pytest.mark.parametrize("own", [slice(0, 8), slice(8, 16), slice(16, 20), slice(20, 20), slice(7, 14)])
def test_a_rank_reads_its_part_alone(
    stored: dict[str, torch.Tensor], tmp_path: Path, own: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FSDP2 divides five rows of four over three or more ranks, and ZeRO-3 the elements over three."""
    asked: list[int] = []
    preadv = base_weights.os.preadv
    monkeypatch.setattr(
        base_weights.os, "preadv", lambda fd, buffers, at: asked.append(len(buffers[0])) or preadv(fd, buffers, at)
    )
    monkeypatch.setattr(base_weights, "own_elements", lambda parameter: own)
    net = nn.ModuleDict({"wrapped": nn.Linear(1, own.stop - own.start, bias=False)})
    read_own_parts(net, ["wrapped.weight"], tmp_path)
    assert torch.equal(net["wrapped"].weight.flatten(), stored["wrapped.weight"].flatten()[own])
    assert sum(asked) == 4 * (own.stop - own.start)


def test_a_file_that_ends_early_is_named(stored: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Cut off between the check of its header and the reading of its tensors."""
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    header = base_weights.read_weights(tmp_path, "diffusion_pytorch_model", "")[0]["wrapped.weight"]
    path.write_bytes(path.read_bytes()[: header.begin + 20])
    with pytest.raises(UserError, match="diffusion_pytorch_model.safetensors: ends within its tensors"):
        base_weights._read_elements(path, header, slice(0, 20))


def world() -> WorldModel:
    """A model with an adapter that acts, to be trained with the heads."""
    model = create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=0)
    model.requires_grad_(False)
    add_adapter(model.backbone.transformer, SUPERVISED, 4, 0, model.backbone.lora_targets)
    for name, parameter in model.backbone.transformer.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model


def test_frozen_weights_in_bf16_give_the_bits_of_fp32_ones_under_autocast() -> None:
    found = []
    for held in (False, True):
        model = world()
        model.backbone.precision = "bf16"
        if held:
            hold_frozen_in_bf16(model.backbone.transformer, model.backbone.full_precision)
        noisy = torch.randn(1, 192, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        prediction = model.predict(noisy, torch.tensor([0.7013]), model.text(["a ball"]))
        (prediction.clean.square().mean() + prediction.hidden[1].square().mean()).backward()
        adapter = {n: p.grad for n, p in model.backbone.transformer.named_parameters() if p.requires_grad}
        found.append((prediction.clean, prediction.hidden, adapter))
    (clean, hidden, gradients), (held_clean, held_hidden, held_gradients) = found
    assert torch.equal(clean, held_clean) and all(map(torch.equal, hidden, held_hidden))
    assert all(torch.equal(gradients[name], held_gradients[name]) for name in gradients)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0


def test_what_is_trained_or_conditions_on_time_stays_in_fp32() -> None:
    """A timestep of 701.3 in bf16 is 700: tables of modulation, the embedding of time and RoPE are never rounded."""
    model = world()
    model.backbone.precision = "bf16"
    place(model, Parallel.alone())
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    halved = {name for name, dtype in dtypes.items() if dtype == torch.bfloat16}
    assert any(".ffn." in name for name in halved) and any(".attn2." in name for name in halved)
    for name, parameter in model.named_parameters():
        exact = ("lora_", "norm", "scale_shift_table", "condition_embedder", "heads.")
        if parameter.requires_grad or any(part in name for part in exact):
            assert name not in halved, name
    buffers = dict(model.backbone.transformer.named_buffers())
    assert buffers and all(buffer.dtype != torch.bfloat16 for buffer in buffers.values())
