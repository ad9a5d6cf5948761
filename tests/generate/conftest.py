"""Models that generate in a second: a tiny one with heads, and a released one with a LoRA and heads."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.placement import place
from phys4d.models.world import create_model
from tests.models.trained_lora import add_lora


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of `tiny`: model-backbone, and model-finetune on it with a LoRA and heads, for clips of 5x48x48."""
    run = tmp_path_factory.mktemp("tiny") / "run"
    config = ModelConfig(width=32, layers=2, taps=(0, 1), heads=HeadConfig(width=8), sampling_steps=2)
    model = create_model(config, 5, 48, 48, seed=0)
    folder.save(model, run / "model-backbone", stage="backbone", base=None)
    add_lora(model, "finetune")
    folder.save(model, run / "model-finetune", stage="finetune", base=run / "model-backbone")
    (run / "config.toml").write_text('stages = ["backbone", "finetune"]\n')
    return run


@pytest.fixture(scope="session")
def tuned(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the released model with the LoRAs `finetune` and `reinforce`, for clips of 5x64x64."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    config = ModelConfig(kind="wan", taps=(0, 2), heads=HeadConfig(width=8))
    model = place(folder.released(released, config, (5, 64, 64)).model, Parallel.alone())
    for seed, (name, rank) in enumerate((("finetune", 4), ("reinforce", 2))):
        add_lora(model, name, rank=rank, seed=seed)
        folder.save(model, run / f"model-{name}", stage=name, base=released)
    (run / "config.toml").write_text('stages = ["finetune", "reinforce"]\n')
    return run


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square png of 96 pixels: a red disc over a floor."""
    rows, columns = np.mgrid[:96, :96]
    image = np.full((96, 96, 3), (170, 190, 210), np.uint8)
    image[rows > 60] = (120, 110, 100)
    image[(rows - 40) ** 2 + (columns - 50) ** 2 < 300] = (200, 40, 30)
    path = tmp_path_factory.mktemp("pictures") / "first.png"
    Image.fromarray(image).save(path)
    return path
