"""Model folders: what is saved loads equal, adapters included, and what is broken is named."""

import json
from pathlib import Path

import pytest
import torch

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.lora import active_names, adapter_names, add_adapter, without
from phys4d.models.placement import place
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.world import WorldModel, create_model


def tiny() -> WorldModel:
    return create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=0)


def velocity(model: WorldModel) -> torch.Tensor:
    noisy = torch.randn(1, 192, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.predict(noisy, torch.tensor([0.5]), model.text(["a red ball"])).velocity


def disturb(model: WorldModel, name: str) -> None:
    with torch.no_grad():
        for key, parameter in model.backbone.transformer.named_parameters():
            if f"lora_B.{name}." in key:
                parameter.normal_(std=0.1)


def test_round_trip_with_two_adapters_and_a_base_elsewhere(tmp_path: Path) -> None:
    model = tiny()
    folder.save(model, tmp_path / "model-backbone", stage="backbone", base=None)
    plain = velocity(model)
    for name in ("finetune", "reinforce"):
        add_adapter(model.backbone.transformer, name, rank=4, seed=3, targets=model.backbone.lora_targets)
        assert torch.equal(velocity(model), plain)
    disturb(model, "finetune")
    fine = velocity(model)
    disturb(model, "reinforce")
    both = velocity(model)
    folder.save(model, tmp_path / "model-reinforce", stage="reinforce", base=tmp_path / "model-backbone")
    assert not (tmp_path / "model-reinforce" / "transformer").exists()
    loaded = folder.load(tmp_path / "model-reinforce")
    place(loaded.model, Parallel.alone())
    assert loaded.stage == "reinforce" and adapter_names(loaded.model.backbone.transformer) == (
        "finetune",
        "reinforce",
    )
    assert not torch.allclose(fine, plain) and not torch.allclose(both, fine)
    torch.testing.assert_close(velocity(loaded.model), both)
    with without(loaded.model.backbone.transformer, "reinforce"):
        torch.testing.assert_close(velocity(loaded.model), fine)
        with without(loaded.model.backbone.transformer, "reinforce"):
            pass
        assert active_names(loaded.model.backbone.transformer) == ("finetune",)
    assert active_names(loaded.model.backbone.transformer) == ("finetune", "reinforce")
    torch.testing.assert_close(velocity(loaded.model), both)
    for (name, a), (_, b) in zip(
        model.heads.state_dict().items(), loaded.model.heads.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_the_folders_move_together(tmp_path: Path) -> None:
    folder.save(tiny(), tmp_path / "run" / "a", stage="backbone", base=None)
    folder.save(tiny(), tmp_path / "run" / "b", stage="pretrain", base=tmp_path / "run" / "a")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert folder.load(tmp_path / "elsewhere" / "b").stage == "pretrain"


def test_adapter_trains_alone_and_twice_is_refused() -> None:
    transformer = tiny().backbone.transformer
    add_adapter(transformer, "finetune", rank=2, seed=0, targets=WanBackbone.lora_targets)
    add_adapter(transformer, "reinforce", rank=2, seed=0, targets=WanBackbone.lora_targets)
    trained = {key for key, p in transformer.named_parameters() if p.requires_grad}
    assert trained and all(".reinforce." in key for key in trained)
    with pytest.raises(ValueError, match="already"):
        add_adapter(transformer, "finetune", rank=2, seed=0, targets=WanBackbone.lora_targets)


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"phys4d\.json: no such file"):
        folder.load(tmp_path)
    folder.save(tiny(), tmp_path / "m", stage="backbone", base=None)
    (tmp_path / "m" / "heads" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="weights do not load"):
        folder.load(tmp_path / "m")
    card = json.loads((tmp_path / "m" / folder.CARD).read_text())
    (tmp_path / "m" / folder.CARD).write_text(json.dumps(card | {"frames": "five"}))
    with pytest.raises(UserError, match="frames"):
        folder.load(tmp_path / "m")
    with pytest.raises(UserError, match="transformer, vae, text_encoder, tokenizer"):
        folder.released(tmp_path, ModelConfig(kind="wan"), (5, 32, 32))
