"""LoRA files: ours act in diffusers and peft as here; others' act here as they do there, or are refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from phys4d.engine.errors import UserError
from phys4d.models import lora, lora_file
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.wan.lora_names import diffusers_names

NOISY = torch.randn(1, 8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
INPUTS = {
    "hidden_states": NOISY,
    "timestep": torch.tensor([[0.0] * 4 + [701.3] * 4]),
    "encoder_hidden_states": torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(1)),
}
RANK = 4


def net() -> WanTransformer3DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=24, in_channels=8, out_channels=8,
            text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2, rope_max_seq_len=64,
        ).eval()  # fmt: skip


@torch.no_grad()
def output(module: Any) -> Tensor:
    return module(**INPUTS, return_dict=False)[0]


@torch.no_grad()
def with_effect(transformer: Any, name: str) -> Any:
    draw = torch.Generator().manual_seed(len(name))
    for key, parameter in transformer.named_parameters():
        if f"lora_B.{name}." in key:
            parameter.normal_(std=0.3, generator=draw)
    return transformer


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A folder that we wrote with a LoRA of effect, and the transformer's output under it."""
    folder = tmp_path_factory.mktemp("ours") / "adapter"
    transformer = net()
    lora.add_adapter(transformer, "finetune", RANK, 0, targets=WanBackbone.lora_targets)
    with_effect(transformer, "finetune")
    lora.save_adapter(transformer, "finetune", folder)
    changed = output(transformer)
    assert (changed - output(net())).norm() > 0.05 * changed.norm()
    return folder, changed


def pipeline() -> WanPipeline:
    parts = {"tokenizer": None, "text_encoder": None, "vae": None, "scheduler": FlowMatchEulerDiscreteScheduler()}
    return WanPipeline(transformer=net(), **parts)


def loaded(folder: Path) -> Tensor:
    transformer = net()
    lora.load_adapter(transformer, "theirs", folder, diffusers_names)
    assert lora.adapter_names(transformer) == ("theirs",)
    assert not any(parameter.requires_grad for parameter in transformer.parameters())
    return output(transformer)


def test_a_stock_pipeline_draws_as_we_do(ours: tuple[Path, Tensor]) -> None:
    pipe = pipeline()
    pipe.load_lora_weights(ours[0], adapter_name="finetune")
    assert pipe.get_list_adapters() == {"transformer": ["finetune"]}
    torch.testing.assert_close(output(pipe.transformer), ours[1])
    config = pipe.transformer.peft_config["finetune"]
    assert (config.r, config.lora_alpha) == (RANK, RANK)


def test_peft_draws_as_we_do(ours: tuple[Path, Tensor], recwarn: pytest.WarningsRecorder) -> None:
    model = PeftModel.from_pretrained(net(), ours[0])
    torch.testing.assert_close(output(model), ours[1])
    assert not [str(w.message) for w in recwarn if "missing" in str(w.message)]


def test_both_adapters_of_a_model_act_together_in_a_stock_pipeline(tmp_path: Path) -> None:
    transformer = net()
    for name in ("finetune", "reinforce"):
        lora.add_adapter(transformer, name, RANK, 0, targets=WanBackbone.lora_targets)
        with_effect(transformer, name)
        lora.save_adapter(transformer, name, tmp_path / name)
    pipe = pipeline()
    for name in ("finetune", "reinforce"):
        pipe.load_lora_weights(tmp_path / name, adapter_name=name)
    pipe.set_adapters(["finetune", "reinforce"])
    torch.testing.assert_close(output(pipe.transformer), output(transformer))
    pipe.set_adapters(["finetune"])
    with lora.without(transformer, "reinforce"):
        torch.testing.assert_close(output(pipe.transformer), output(transformer))


def test_the_same_adapter_gives_the_same_bytes(ours: tuple[Path, Tensor], tmp_path: Path) -> None:
    transformer = net()
    lora.load_adapter(transformer, "again", ours[0], diffusers_names)
    lora.save_adapter(transformer, "again", tmp_path)
    one, two = (load_file(folder / lora_file.DIFFUSERS_WEIGHTS) for folder in (ours[0], tmp_path))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def renamed(rename: Callable[[str], str], **more: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {rename(key): tensor for key, tensor in weights.items()} | more


def original(key: str) -> str:
    """diffusers' name of a key -> that of the original Wan code, which ComfyUI's files have."""
    for theirs, wan in (
        ("attn1", "self_attn"), ("attn2", "cross_attn"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
        ("to_out.0", "o"), ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"),
    ):  # fmt: skip
        key = key.replace(theirs, wan)
    return f"diffusion_model.{key}"


def kohya(key: str) -> str:
    module, half = key.rsplit(".lora_", 1)
    name = original(module).removeprefix("diffusion_model.").replace(".", "_")
    return f"lora_unet_{name}.lora_{'down' if half[0] == 'A' else 'up'}.weight"


def with_alpha(weights: dict[str, Tensor], rename: Callable[[str], str], alpha: float) -> dict[str, Tensor]:
    """Renamed, with a tensor `.alpha` for each module, and B such that the effect stays the same."""
    out = {}
    for key, tensor in weights.items():
        out[rename(key)] = tensor * (RANK / alpha) if "lora_B" in key else tensor
        out[rename(key).rsplit(".lora_", 1)[0] + ".alpha"] = torch.tensor(alpha)
    return out


FORMATS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "without prefix, as this project wrote": renamed(lambda key: key),
    "diffusers": renamed(lambda key: f"transformer.{key}"),
    "diffusers, old": renamed(
        lambda key: f"transformer.{key}".replace("lora_A", "lora.down").replace("lora_B", "lora.up")
    ),
    "peft": renamed(lambda key: f"base_model.model.{key}"),
    "original": renamed(original),
    "original with alpha": lambda weights: with_alpha(weights, original, 1.0),
    "original, up and down": renamed(
        lambda key: original(key).replace("lora_A", "lora_down").replace("lora_B", "lora_up")
    ),
    "kohya": lambda weights: with_alpha(weights, kohya, 2.0),
    "diffusers with alpha": lambda weights: with_alpha(weights, lambda key: f"transformer.{key}", 16.0),
}


def plain(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder under diffusers' names without prefix."""
    weights = load_file(folder / lora_file.DIFFUSERS_WEIGHTS)
    return {key.removeprefix("transformer."): tensor for key, tensor in weights.items()}


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_others_act_as_they_do_there(ours: tuple[Path, Tensor], tmp_path: Path, form: str) -> None:
    save_file(FORMATS[form](plain(ours[0])), tmp_path / lora_file.DIFFUSERS_WEIGHTS)
    torch.testing.assert_close(loaded(tmp_path), ours[1], rtol=1e-4, atol=1e-5)


def test_what_this_project_wrote_before_still_loads(ours: tuple[Path, Tensor], tmp_path: Path) -> None:
    transformer = net()
    lora.load_adapter(transformer, "old", ours[0], diffusers_names)
    transformer.save_lora_adapter(tmp_path, adapter_name="old", weight_name=lora_file.DIFFUSERS_WEIGHTS)
    with safe_open(tmp_path / lora_file.DIFFUSERS_WEIGHTS, "pt") as file:
        assert json.loads(file.metadata()[lora_file.METADATA])["r"] == RANK
    torch.testing.assert_close(loaded(tmp_path), ours[1])


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 16, "target_modules": ["to_q", "to_v"]},
        {"r": 4, "lora_alpha": 2, "target_modules": ["ffn.net.0.proj", "proj_out", "time_proj"]},
        {"r": 6, "lora_alpha": 8, "use_rslora": True, "target_modules": ["to_k", "to_out.0"]},
        {
            "r": 4, "lora_alpha": 8, "target_modules": ["to_q", "ffn.net.2"],
            "rank_pattern": {"blocks.1.attn1.to_q": 2, "ffn.net.2": 3}, "alpha_pattern": {"ffn.net.2": 12},
        },
    ],
)  # fmt: skip
def test_rank_alpha_and_targets_are_those_that_peft_trained(tmp_path: Path, config: dict[str, Any]) -> None:
    theirs = with_effect(get_peft_model(net(), LoraConfig(**config)), "default")
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / lora_file.PEFT_WEIGHTS).exists() and not (tmp_path / lora_file.DIFFUSERS_WEIGHTS).exists()
    expected = output(theirs)
    assert (expected - output(net())).norm() > 0.01 * expected.norm()
    torch.testing.assert_close(loaded(tmp_path), expected)
    transformer = net()
    lora.load_adapter(transformer, "theirs", tmp_path, diffusers_names)
    lora.save_adapter(transformer, "theirs", tmp_path / "again")
    torch.testing.assert_close(loaded(tmp_path / "again"), expected)
    pipe = pipeline()
    pipe.load_lora_weights(tmp_path / "again")
    torch.testing.assert_close(output(pipe.transformer), expected)
    torch.testing.assert_close(output(PeftModel.from_pretrained(net(), tmp_path / "again")), expected)


A = "transformer.blocks.0.attn1.to_q.lora_A.weight"
B = "transformer.blocks.0.attn1.to_q.lora_B.weight"


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"transformer_2.blocks.0.attn1.to_q.lora_A.weight": 1}, "weights of a second expert: only models of one"),
        ({"text_encoder.layers.0.q.lora_A.weight": 1}, "weights of a text encoder"),
        ({"transformer.blocks.0.attn1.to_q.lora_magnitude_vector.weight": 1}, "a DoRA, which is not taken"),
        ({"transformer.blocks.0.attn1.to_q.dora_scale": 1}, "a DoRA, which is not taken"),
        ({"transformer.blocks.0.norm2.diff": 1}, "differences of whole weights"),
        ({"transformer.blocks.0.attn1.to_q.lora_B.bias": 1}, "biases in the LoRA"),
        ({"transformer.blocks.0.attn1.to_q.lokr_w1": 1}, "a LoKr or LoHa"),
        ({"transformer.blocks.0.attn1.to_k.lora_A.weight": 1}, "one of lora_A and lora_B is absent"),
        ({"transformer.blocks.0.attn1.to_k.alpha": 1}, "there are no weights of that module"),
        ({"transformer.blocks.0.scale": 1}, "is no part of a LoRA"),
        ({A.replace("0", "7", 1): (2, 48), B.replace("0", "7", 1): (48, 2)}, "this transformer has no blocks.7.attn1"),
        ({A: (2, 40)}, f"does not fit: {A} is [2, 40], this transformer takes [2, 48]"),
        ({B: (48, 3)}, f"does not fit: {B} is [48, 3], this transformer takes [48, 2]"),
        (
            {"patch_embedding.lora_A.weight": (2, 32), "patch_embedding.lora_B.weight": (48, 2)},
            "does not fit: patch_embedding.lora_A.weight: patch_embedding is no linear module",
        ),
        ({"diffusion_model.blocks.0.other.lora_A.weight": 1}, "its names are not those of a LoRA of Wan"),
    ],
)
def test_what_would_lose_a_part_of_its_effect_is_refused(tmp_path: Path, more: dict[str, Any], line: str) -> None:
    sound = {A: torch.zeros(2, 48), B: torch.zeros(48, 2)}
    path = tmp_path / lora_file.DIFFUSERS_WEIGHTS
    save_file(sound | {key: torch.zeros(shape) for key, shape in more.items()}, path)
    with pytest.raises(ValueError) as refused:
        loaded(tmp_path)
    assert str(refused.value).startswith(f"{path}: ") and line in str(refused.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"use_dora": True}, "use_dora: True: is not taken"),
        ({"lora_bias": True}, "lora_bias: True: is not taken"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save: ['proj_out']: is not taken"),
        ({"bias": "all"}, "bias: all: trained biases are not taken"),
        ({"peft_type": "LOHA"}, "peft_type: LOHA: only LORA is taken"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights: pissa_niter_16: changes the base's weights"),
        ({"r": 8}, "is of rank 4, its configuration says 8"),
    ],
)
def test_configurations_that_are_not_taken(
    ours: tuple[Path, Tensor], tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    config = json.loads((ours[0] / lora_file.PEFT_CONFIG).read_text()) | change
    weights = load_file(ours[0] / lora_file.PEFT_WEIGHTS)
    save_file(weights, tmp_path / lora_file.PEFT_WEIGHTS)
    (tmp_path / lora_file.PEFT_CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError) as refused:
        loaded(tmp_path)
    assert line in str(refused.value)
    prefixed = {f"transformer.{key}": value for key, value in config.items()}
    names = {key.replace("base_model.model.", "transformer."): tensor for key, tensor in weights.items()}
    save_file(names, tmp_path / lora_file.DIFFUSERS_WEIGHTS, metadata={lora_file.METADATA: json.dumps(prefixed)})
    with pytest.raises(ValueError) as refused:
        loaded(tmp_path)
    assert line in str(refused.value)


def test_a_configuration_of_a_second_expert_is_refused(ours: tuple[Path, Tensor], tmp_path: Path) -> None:
    metadata = {lora_file.METADATA: json.dumps({"transformer.r": 4, "transformer_2.r": 4})}
    save_file(load_file(ours[0] / lora_file.DIFFUSERS_WEIGHTS), tmp_path / lora_file.DIFFUSERS_WEIGHTS, metadata)
    with pytest.raises(ValueError, match=r"transformer_2\.r: weights of a second expert"):
        loaded(tmp_path)


def test_a_file_that_is_cut_off_is_refused(ours: tuple[Path, Tensor], tmp_path: Path) -> None:
    path = tmp_path / lora_file.DIFFUSERS_WEIGHTS
    path.write_bytes((ours[0] / path.name).read_bytes()[:-10])
    with pytest.raises(UserError, match="bytes long, its header says"):
        loaded(tmp_path)


def test_shapes_without_weights_are_checked_alike(ours: tuple[Path, Tensor]) -> None:
    path, layers = lora_file.read_lora(ours[0], diffusers_names, weights=False)
    assert all(layer.a.is_meta and layer.b.is_meta for layer in layers.values()) and len(layers) == 20
    assert path == ours[0] / lora_file.DIFFUSERS_WEIGHTS  # of both files
    lora_file.check_fits_transformer(path, layers, net())
