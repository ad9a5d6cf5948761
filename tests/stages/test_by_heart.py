"""Wan2.2 and Open-Sora 1.2 learn one batch by heart in every phase; CogVideoX and Wan2.1 in tests of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.placement import place
from phys4d.models.world import WorldModel
from tests.models.by_heart import policy_losses, repeated
from tests.published_folders import write_cogvideox, write_published, write_wan21  # noqa: F401 (fixtures)

SIZE = (5, 32, 32)


@pytest.fixture(scope="module", params=["wan", "opensora"])
def model(
    request: pytest.FixtureRequest,
    write_published: Callable[[str, Path], Path],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> WorldModel:
    config = ModelConfig(kind=request.param, taps=(0, 1), heads=HeadConfig(width=8))
    published = write_published(request.param, tmp_path_factory.mktemp("by-heart") / request.param)
    return place(folder.released(published, config, SIZE).model, Parallel.alone())


@pytest.mark.slow
def test_every_phase_learns_a_batch_by_heart(
    model: WorldModel, write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    """Losses of one batch at the same noise, taken again and again; `reinforce` learns drawn steps: those of one sample
    become likelier, those of the other less so."""
    clips = write_clips(tmp_path / "data", scale=2, count=4)
    data = {"data": clips, "optimizer": {"learning_rate": 1e-3}, "loop": {"steps": 1}}
    losses = repeated(model, "pretrain", data | {"batch": 2}, 30)
    assert losses[-1] < 0.6 * losses[0]
    losses = repeated(model, "finetune", data | {"batch": 2, "rank": 8}, 20)
    assert losses[-1] < 0.5 * losses[0]

    losses = policy_losses(model, data, 15)
    assert losses[0] == pytest.approx(0, abs=1e-4) and losses[-1] < -0.15
