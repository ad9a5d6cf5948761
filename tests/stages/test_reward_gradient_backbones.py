"""Stage `reward_gradient` on every backbone: it climbs, through the video too, and ranks train as one."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.placement import place
from phys4d.models.world import WorldModel
from phys4d.rewards.registry import REWARDS
from tests.models.by_heart import prepared, rewards_climbed
from tests.models.cogvideox.conftest import write_cogvideox  # noqa: F401 (a fixture)
from tests.models.cogvideox.test_cogvideox_stages import nine_frames  # noqa: F401 (a fixture)
from tests.models.wan21.conftest import write_wan21  # noqa: F401 (a fixture)
from tests.stages.released_run import run_text

KINDS = ("wan21", "cogvideox", "opensora")
SIDE, STAGES = 32, ("pretrain", "finetune", "reward_gradient")
Session = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", params=KINDS)
def case(
    request: pytest.FixtureRequest, write_clips: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Of a backbone: kind, model folder (of image to video where there is one), data, frames, the last block."""
    root, kind = tmp_path_factory.mktemp("climbing"), request.param
    if kind == "opensora":
        model = request.getfixturevalue("opensora")
    else:
        model = request.getfixturevalue(f"write_{kind}")(root / "model", image=True)
    if kind == "cogvideox":
        data = request.getfixturevalue("nine_frames")
    else:
        data = write_clips(root / "data", scale=2, count=2)
    frames, last = 9 if kind == "cogvideox" else 5, 3 if kind == "opensora" else 2
    return {"kind": kind, "model": model, "data": data, "frames": frames, "last": last}


@pytest.fixture
def model(case: dict[str, Any]) -> WorldModel:
    config = ModelConfig(kind=case["kind"], taps=(0, case["last"]), heads=HeadConfig(width=8))
    made = place(folder.released(case["model"], config, (case["frames"], SIDE, SIDE)).model, Parallel.alone())
    prepared(made, "finetune", settings(case) | {"rank": 2})
    return made


def settings(case: dict[str, Any]) -> dict[str, Any]:
    return {"data": case["data"], "optimizer": {"learning_rate": 1e-3}, "loop": {"steps": 1}}


def test_the_reward_of_a_sample_climbs(model: WorldModel, case: dict[str, Any]) -> None:
    rewards = rewards_climbed(model, settings(case), 6)
    assert all(later > earlier for earlier, later in pairwise(rewards)), rewards
    assert rewards[-1] - rewards[0] > 2e-3


def test_the_video_alone_leads_it(model: WorldModel, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reward that looks at neither depth nor motion."""
    brightness = replace(REWARDS["changed"], differentiable=lambda generated, truth: generated.video.mean((1, 2, 3, 4)))
    monkeypatch.setitem(REWARDS, "changed", brightness)
    first, second = rewards_climbed(model, settings(case), 2)
    assert second > first


def logged(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == "reward_gradient" and "reward" in line]


@pytest.mark.slow
def test_ranks_train_as_one(case: dict[str, Any], session: Session, tmp_path: Path) -> None:
    """Two ranks with a clip each, and two that divide every clip, with activations that are computed again."""

    def train(name: str, *changes: str, ranks: int = 1) -> list[dict[str, Any]]:
        run = tmp_path / f"{name}.toml"
        tables = {"evaluate": {}, "reward_gradient": {"guidance": 2.0}}
        of = {"kind": case["kind"], "last_tap": case["last"], "stages": STAGES}
        run.write_text(run_text(tmp_path / name, case["model"], case["data"], **of, **tables))
        ended = session("train", run, *(word for change in changes for word in ("--set", change)), ranks=ranks)
        assert ended["codes"] == [0] * ranks, ended["errors"]
        return logged(tmp_path / name)

    one = train("one")
    table = json.loads((tmp_path / "one" / "evaluation" / "reward_gradient.json").read_text())
    assert len(one) == 2 and table["means"]["reward"] < 0
    start = ['stages=["reward_gradient"]', f'init="{tmp_path / "one" / "model-finetune"}"']
    for name, more in (("shares", ()), ("divided", ("parallel={context=2}", "checkpointing=full"))):
        for ours, expected in zip(train(name, *start, *more, ranks=2), one, strict=True):
            for figure in ("reward", "grad_norm"):
                assert ours[figure] == pytest.approx(expected[figure], rel=1e-3, abs=1e-6), (name, figure)
