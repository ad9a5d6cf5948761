"""The configuration beside a LoRA's weights: written as peft writes it, and read with peft's own defaults."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from phys4d.models import lora
from phys4d.models.config import ModelConfig
from phys4d.models.lora_file import PEFT_CONFIG
from phys4d.models.wan.lora_names import diffusers_names
from phys4d.models.world import create_model


def transformer() -> Any:
    return create_model(ModelConfig(width=32, layers=1, taps=(0,)), 5, 16, 16, seed=0).backbone.transformer


def written_by_peft(folder: Path, **settings: Any) -> None:
    get_peft_model(transformer(), LoraConfig(r=4, target_modules=["to_q"], **settings)).save_pretrained(folder)


def read(folder: Path) -> nn.Module:
    there = transformer()
    lora.load_adapter(there, "theirs", folder, diffusers_names)
    return there


@pytest.mark.parametrize(("alpha", "written"), [(8.0, "8"), (2.5, "2.5")])
def test_it_is_written_as_peft_writes_it(tmp_path: Path, alpha: float, written: str) -> None:
    written_by_peft(tmp_path, lora_alpha=alpha)
    lora.save_adapter(read(tmp_path), "theirs", tmp_path / "again")
    text = (tmp_path / "again" / PEFT_CONFIG).read_text()
    assert f'"lora_alpha": {written},' in text and '"inference_mode": true' in text


def test_an_alpha_that_is_left_out_is_that_of_peft(tmp_path: Path) -> None:
    written_by_peft(tmp_path)
    file = tmp_path / PEFT_CONFIG
    config = json.loads(file.read_text())
    default = config.pop("lora_alpha")
    file.write_text(json.dumps(config))
    assert default == LoraConfig().lora_alpha and read(tmp_path).peft_config["theirs"].lora_alpha == default
