"""The LoRA of a stage: rank, alpha, modules and blocks by the table or the kind of model, in files and in counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import Tensor

from phys4d.cli import main
from phys4d.dry_run.model import source_of
from phys4d.dry_run.prediction import predict
from phys4d.engine.costs.gpus import GPUS
from phys4d.engine.errors import UserError
from phys4d.models import lora
from phys4d.models.config import ModelConfig
from phys4d.models.registry import MODELS
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.wan.lora_names import diffusers_names
from phys4d.models.world import WorldModel, create_model
from phys4d.stages.adapter import AdapterConfig, adapter_of
from phys4d.stages.spec import by_depth
from tests.dry_run.conftest import made
from tests.models.test_lora_files import net, output, pipeline, with_effect

LAYERS = 4


def tiny() -> WorldModel:
    model = create_model(ModelConfig(width=32, layers=LAYERS, taps=(1, 3)), 5, 16, 16, seed=0)
    return model.requires_grad_(False)


def added(model: WorldModel, name: str = "finetune", **table: Any) -> None:
    asked = adapter_of(name, AdapterConfig(**table), model)
    lora.add_adapter(model.backbone.transformer, name, asked.rank, 0, asked.targets, asked.alpha)


def adapted(transformer: Any, name: str = "finetune") -> set[str]:
    return {path for path, _ in lora._layers_of(transformer, name)}


def test_published_models_have_the_authors_rank_and_our_own_a_smaller_one() -> None:
    found = {kind: (spec.lora.rank, spec.lora.alpha) for kind, spec in MODELS.items()}
    assert found == {kind: (16, 16) if kind in ("tiny", "small") else (32, 32) for kind in MODELS}
    assert {"wan", "cogvideox", "opensora"} <= MODELS.keys()
    q, k, v, o, ffn_0, ffn_2 = WanBackbone.lora_targets  # q, k, v, o, ffn.0 and ffn.2 of the original code
    assert (q, k, v, o, ffn_0, ffn_2) == ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    model = tiny()
    asked_for: list[dict[str, Any]] = [{}, {"rank": 4}, {"alpha": 8}, {"rank": 2, "alpha": 1}]
    for table, expected in zip(asked_for, [(16, 16), (4, 4), (16, 8), (2, 1)], strict=True):
        asked = adapter_of("finetune", AdapterConfig(**table), model)
        assert (asked.rank, asked.alpha) == expected and asked.targets == model.backbone.lora_targets


def test_the_factors_count_alpha_over_rank_times() -> None:
    model = tiny()
    added(model, rank=4, alpha=6)
    layer = model.backbone.blocks[2].attn1.to_v
    a, b = layer.lora_A["finetune"].weight, layer.lora_B["finetune"].weight
    torch.nn.init.normal_(b)
    x = torch.randn(3, 32)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 1.5 * x @ a.T @ b.T)


@pytest.mark.parametrize("names", [("finetune",), ("finetune", "reinforce")])
def test_blocks_outside_the_range_carry_no_adapter(names: tuple[str, ...]) -> None:
    """Also of the second adapter, over modules that carry the first."""
    model = tiny()
    everywhere = tiny()
    for name in names:
        added(model, name, blocks=(1, 2))
        added(everywhere, name)
    for name in names:
        inside = {path for path in adapted(everywhere.backbone.transformer, name) if path.split(".")[1] in "12"}
        assert adapted(model.backbone.transformer, name) == inside and len(inside) == 2 * 10
    added(only := tiny(), blocks=(3, 3), targets=("attn2.to_q", "ffn.net.2"))
    assert adapted(only.backbone.transformer) == {"blocks.3.attn2.to_q", "blocks.3.ffn.net.2"}
    added(only := tiny(), blocks=(0, 0), targets=("attn2.to_q",))
    assert adapted(only.backbone.transformer) == {"blocks.0.attn2.to_q"}


def test_learning_rates_by_depth_are_those_of_the_blocks() -> None:
    model = tiny()
    added(model, blocks=(1, 2))
    groups = by_depth("adapter", model.backbone, 0.5)
    assert [group["lr_scale"] for group in groups] == [0.25, 0.5]
    for group, k in zip(groups, (1, 2), strict=True):
        own = [p for p in model.backbone.blocks[k].parameters() if p.requires_grad]
        assert {id(p) for p in group["params"]} == {id(p) for p in own} and len(own) == 2 * 10


def changed(folder: Path, targets: tuple[str, ...], alpha: float) -> Tensor:
    """Writes a LoRA of effect into the folder; the output of the transformer under it."""
    transformer = net()
    lora.add_adapter(transformer, "finetune", 4, 0, targets, alpha)
    lora.save_adapter(with_effect(transformer, "finetune"), "finetune", folder)
    return output(transformer)


@pytest.mark.parametrize("targets", [WanBackbone.lora_targets, ("blocks.1.attn1.to_q", "blocks.1.ffn.net.2")])
def test_alpha_and_blocks_reach_stock_diffusers_and_peft(targets: tuple[str, ...], tmp_path: Path) -> None:
    ours = changed(tmp_path, targets, 10)
    others = [changed(tmp_path / f"{alpha}", targets, alpha) for alpha in (4, 20)]
    assert all((ours - other).norm() > 0.01 * ours.norm() for other in others)
    pipe = pipeline()
    pipe.load_lora_weights(tmp_path, adapter_name="finetune")
    torch.testing.assert_close(output(pipe.transformer), ours)
    assert adapted(pipe.transformer) == {p for p, _ in net().named_modules() if p.endswith(tuple(targets))}
    torch.testing.assert_close(output(PeftModel.from_pretrained(net(), tmp_path)), ours)
    again = net()
    lora.load_adapter(again, "finetune", tmp_path, diffusers_names)
    torch.testing.assert_close(output(again), ours)
    (tmp_path / "adapter_model.safetensors").unlink()  # from the header of diffusers' file, and from peft's beside it
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 10)


def test_what_a_model_cannot_have_is_refused_before_anything_starts(clips: Path, refused: Callable[..., str]) -> None:
    start = "no linear module is called 'to_qkv': there are attn1.to_q, attn1.to_k, attn1.to_v, attn1.to_out.0, "
    for key in ("finetune", "reinforce"):
        assert refused(clips, f'{key}.targets=["to_v", "to_qkv"]').startswith(f"{key}.targets: {start}")
        assert refused(clips, f"{key}.blocks=[1, 2]") == f"{key}.blocks: [1, 2]: the transformer has blocks 0 to 1"
    assert "finetune.blocks: expected [first, last], from 0 on, got [1, 0]" in refused(clips, "finetune.blocks=[1, 0]")
    assert "reinforce.alpha: expected a number above 0.0, got 0" in refused(clips, "reinforce.alpha=0")


def test_what_a_model_cannot_have_is_refused() -> None:
    for blocks in ((-1, 2), (2, 1)):
        with pytest.raises(ValidationError, match=r"blocks\n.*expected \[first, last\], from 0 on"):
            AdapterConfig(blocks=blocks)
    for table in ({"targets": ()}, {"alpha": float("inf")}, {"alpha": float("nan")}):
        with pytest.raises(ValidationError, match=next(iter(table))):
            AdapterConfig(**table)
    model = tiny()
    with pytest.raises(UserError, match=r"finetune.blocks: \[2, 4\]: the transformer has blocks 0 to 3"):
        adapter_of("finetune", AdapterConfig(blocks=(2, 4)), model)
    assert {path.split(".")[1] for path in adapter_of("finetune", AdapterConfig(blocks=(3, 3)), model).targets} == {"3"}
    added(model)
    for end in ("to_qkv", "to_q.base_layer", "lora_A.finetune"):  # with a LoRA on it, too
        with pytest.raises(UserError) as caught:
            adapter_of("reinforce", AdapterConfig(targets=("to_v", end)), model)
        assert str(caught.value) == (
            f"reinforce.targets: no linear module is called {end!r}: there are attn1.to_q, attn1.to_k, attn1.to_v, "
            "attn1.to_out.0, attn2.to_q, attn2.to_k, attn2.to_v, attn2.to_out.0, ffn.net.0.proj, ffn.net.2"
        )


def test_a_run_with_all_of_it_and_what_a_resumed_one_may_not_change(
    write_run: Callable[..., Path], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ["backbone", "pretrain", "finetune", "reinforce"])
    text = run.read_text().partition("[evaluate]")[0]
    run.write_text(text)
    words = [word for key in ("finetune", "reinforce") for word in ("--set", f"{key}.blocks=[1, 1]")]
    words += ["--set", "finetune.alpha=6", "--set", 'reinforce.targets=["to_q"]']
    assert main(["train", str(run), *words]) == 0
    model = tmp_path / "out" / "model-reinforce" / "adapters"
    found = {name: json.loads((model / name / "adapter_config.json").read_text()) for name in ("finetune", "reinforce")}
    assert (found["finetune"]["r"], found["finetune"]["lora_alpha"]) == (2, 6)
    assert found["reinforce"]["target_modules"] == ["blocks.1.attn1.to_q", "blocks.1.attn2.to_q"]
    for change in ("finetune.alpha=5", "finetune.blocks=[0, 1]", 'reinforce.targets=["to_k"]', "reinforce.rank=3"):
        capsys.readouterr()
        assert main(["train", str(run), *words, "--set", change, "--resume"]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "the run was started with another configuration: " + change.partition("=")[0] in line, line


def test_a_dry_run_counts_the_adapters_that_there_are() -> None:
    """Moments are 8 bytes for each trained parameter, of which each adapted module has rank (inputs + outputs)."""
    counted = {}
    for name, table in (
        ("all", {}), ("rank", {"rank": 32}), ("blocks", {"blocks": [6, 7]}), ("targets", {"targets": ["attn1.to_q"]}),
    ):  # fmt: skip
        config = made(finetune={"batch": 1, **table}, model={"width": 64, "layers": 8, "taps": (1, 3)})
        prediction = predict(config, "finetune", source_of(config, None), (5, 32, 32), 1, GPUS["h100"])
        counted[name] = prediction.memory["moments"], prediction.model_flops
    heads = counted["all"][0] - 8 * 8 * 16 * _ends()
    assert counted["rank"][0] - heads == 2 * (counted["all"][0] - heads)
    assert counted["blocks"][0] - heads == 2 * 8 * 16 * _ends()
    assert counted["targets"][0] - heads == 8 * 8 * 16 * 128
    assert counted["blocks"][1] < counted["all"][1] < counted["rank"][1]


def _ends() -> int:
    """Inputs and outputs of all adapted modules of a tiny block of width 64: 8 of attention, 2 of the MLP."""
    model = create_model(ModelConfig(width=64, layers=1, taps=(0,)), 5, 32, 32, seed=0)
    block = model.backbone.blocks[0]
    modules = [m for path, m in block.named_modules() if path.endswith(model.backbone.lora_targets)]
    assert len(modules) == 10
    return sum(m.in_features + m.out_features for m in modules if isinstance(m, torch.nn.Linear))
