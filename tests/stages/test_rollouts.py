"""Which noise the members of a group share."""

from pathlib import Path

import pytest
import torch

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.world import create_model
from phys4d.stages.reinforce import ReinforceConfig, ReinforceObjective

OPTIMIZER = OptimizerConfig(learning_rate=1e-3)


@pytest.mark.parametrize("shared", [True, False])
def test_a_group_shares_its_start_and_nothing_else(
    clips: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ReinforceConfig(
        data=clips, conditions=2, group=3, shared_start=shared, optimizer=OPTIMIZER, loop=LoopConfig(steps=1)
    )
    size = ModelConfig(width=32, layers=2, taps=(0, 1), heads=HeadConfig(width=8))
    model = create_model(size, 5, 16, 16, seed=0)
    objective = ReinforceObjective(config, model, Parallel.start(), seed=5)
    encode, encoded = model.codec.encode, []
    monkeypatch.setattr(model.codec, "encode", lambda video: encoded.append(len(video)) or encode(video))
    conditions = objective.clips.batch(2, objective.parallel, 5, "reinforce", 0)
    (samples,) = objective._samples(conditions, objective.config.group)
    assert encoded == [1, 1]  # each of two conditions once, not for each of its three members
    assert samples.conditions == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(samples.clean, model.codec.encode(conditions.video[samples.conditions]))
    start, step = (objective._noise(samples.batch, samples.clean, use).view(2, 3, -1) for use in ("start", "step 0"))
    members_differ = [not torch.equal(noise[:, 0], noise[:, 1]) for noise in (start, step)]
    assert members_differ == [not shared, True]
    assert not torch.equal(start[0], start[1])
