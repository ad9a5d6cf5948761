"""Noise levels and timesteps of every published model at 480p and 720p, number by number, from its folder to sampling.

Expected are those of diffusers' schedulers with the published settings, and of Open-Sora those that its public code
computed (`opensora/public_values.json`)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, UniPCMultistepScheduler

from phys4d.engine.distributed.parallel import Parallel
from phys4d.generate.solvers import Solver, solver
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.placement import place
from phys4d.models.registry import MODELS
from phys4d.models.world import WorldModel
from tests.models.cogvideox.conftest import SCHEDULER
from tests.published_folders import write_cogvideox, write_published, write_wan21  # noqa: F401 (fixtures)

PUBLIC: dict[str, Any] = json.loads((Path(__file__).parent / "opensora" / "public_values.json").read_text())
Opened = Callable[[str, tuple[int, int, int]], tuple[WorldModel, Solver]]


@pytest.fixture(scope="module")
def opened(write_published: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Opened:  # noqa: F811
    """A kind's model for clips of a size, with what its folder and its kind say of sampling, and its own solver."""
    root, folders = tmp_path_factory.mktemp("levels"), {}

    def opened(name: str, size: tuple[int, int, int]) -> tuple[WorldModel, Solver]:
        kind = name.partition("-")[0]
        if name not in folders:
            folders[name] = write_published(name, root / name)
        model = folder.released(folders[name], ModelConfig(kind=kind, taps=(0,)), size).model
        sampling, shift = MODELS[kind].sampling(folders[name]), model.config.sampling_shift
        model = place(model, Parallel.alone())
        return model, solver(sampling.solver, sampling, model.config.sampling_steps, shift, model.sigmas)

    return opened


@pytest.mark.parametrize(
    ("name", "size", "shift"),
    [
        ("wan", (49, 480, 832), 5.0), ("wan", (121, 704, 1280), 5.0),
        ("wan21-text", (81, 480, 832), 3.0), ("wan21-text", (81, 720, 1280), 5.0),
        ("wan21-image", (81, 480, 832), 3.0), ("wan21-image", (81, 720, 1280), 5.0),
    ],
)  # fmt: skip
def test_wan(opened: Opened, name: str, size: tuple[int, int, int], shift: float) -> None:
    """50 steps of UniPC with this flow shift, whose timesteps are whole numbers."""
    model, chosen = opened(name, size)
    stock = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    stock.set_timesteps(50)
    assert list(model.sigmas(50)[1:]) == stock.sigmas[1:].tolist() and model.sigmas(50)[0] == 1
    assert chosen.scheduler.sigmas.tolist() == stock.sigmas.tolist()
    assert [1000 * level for level in chosen.levels] == pytest.approx(stock.timesteps.tolist(), rel=1e-12)
    assert stock.timesteps.dtype == torch.int64 and len(chosen.levels) == 50


@pytest.mark.parametrize("size", [(49, 480, 720), (49, 720, 1280)])
def test_cogvideox(opened: Opened, size: tuple[int, int, int]) -> None:
    """50 steps of the published scheduler, the same at any size."""
    model, chosen = opened("cogvideox-text", size)
    stock = CogVideoXDDIMScheduler.from_config(SCHEDULER)
    stock.set_timesteps(50)
    left = stock.alphas_cumprod.double()[stock.timesteps]
    expected = (1 - left).sqrt() / (left.sqrt() + (1 - left).sqrt())
    assert torch.equal(torch.tensor(model.sigmas(50)), torch.cat([expected, torch.zeros(1)]).float())
    levels = torch.tensor(chosen.levels)
    assert torch.equal(model.backbone.process.timestep(levels), stock.timesteps)


@pytest.mark.parametrize("size", [size for size in PUBLIC["timesteps"] if "x854" not in size and "51" not in size])
def test_opensora(opened: Opened, size: str) -> None:
    frames, height, width = map(int, size.split("x"))
    model, chosen = opened("opensora", (frames, height, width))
    assert [1000 * level for level in chosen.levels] == pytest.approx(PUBLIC["timesteps"][size], rel=3e-7)
    assert model.config.sampling_steps == 30 and len(chosen.levels) == 30
