"""What stands beside the model's figures, and that ranks share an evaluation without changing it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.engine import integrity
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.evaluate.folders import ranked_scenes
from phys4d.evaluate.results import record_digests
from phys4d.evaluate.run import evaluate, reader_digest
from phys4d.evaluate.scenes import EvaluateConfig
from phys4d.models import folder as model_folder
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.lora import add_adapter
from phys4d.models.world import WorldModel, create_model

ALONE = Parallel.alone()


def tiny() -> WorldModel:
    config = ModelConfig(width=32, layers=2, taps=(0, 1), heads=HeadConfig(width=8), sampling_steps=2)
    return create_model(config, 5, 16, 16, seed=0)


def test_scenes_are_ranked_without_repeating_one() -> None:
    rewards = [-0.5, None, -0.1, -0.9, -0.3, -0.1, -0.7]
    assert ranked_scenes(rewards, 1) == {2: "best", 4: "median", 3: "worst"}
    assert ranked_scenes(rewards, 2) == {2: "best", 5: "best", 4: "median", 0: "median", 3: "worst", 6: "worst"}
    assert ranked_scenes([-0.2, -0.1], 1) == {1: "best", 0: "worst"} and ranked_scenes([-1.0], 1) == {0: "worst"}
    assert ranked_scenes(rewards, 0) == ranked_scenes([None], 1) == {}


def test_every_video_is_read_by_the_same_heads(clips: Path) -> None:
    """Heads that see a wall at one depth in every video: static, true and generated clips have one Chamfer distance."""
    model = tiny()
    with torch.no_grad():
        for head in (model.heads.depth, model.heads.motion):
            for parameter in head.doubling[-1].parameters():
                parameter.zero_()
    table = evaluate(model, EvaluateConfig(data=clips, scenes=3, samples=1, batch=2), "tiny", ALONE).table()
    rows = {"model": table["means"], **table["baselines"]}
    distances = [rows[name]["chamfer_4d"] for name in ("model", "static_video", "true_video")]
    assert distances[0] > 0.1 and distances == pytest.approx([distances[0]] * 3, rel=1e-6)
    assert rows["truth"]["chamfer_4d"] == rows["truth"]["reward"] == rows["truth"]["absrel"] == 0
    assert rows["true_video"]["reward"] < -0.1  # what the heads cost a perfect generator
    assert rows["static_video"]["reward"] == -2.0  # nothing changes, though the true clip does


def test_the_precision_is_that_asked_for_and_is_stated(clips: Path) -> None:
    tables = {}
    for precision in ("fp32", "bf16"):
        config = EvaluateConfig(data=clips, scenes=2, samples=1, batch=2, precision=precision)
        tables[precision] = evaluate(tiny(), config, "tiny", ALONE).table()
        assert tables[precision]["precision"] == precision
    plain, rounded = (tables[precision]["means"]["absrel"] for precision in ("fp32", "bf16"))
    assert rounded != plain and rounded == pytest.approx(plain, rel=0.05)


def test_the_reader_is_the_heads_and_the_adapter_that_acts_with_them() -> None:
    model = tiny()
    digests = [reader_digest(model)]
    add_adapter(model.backbone.transformer, "finetune", rank=2, seed=0, targets=model.backbone.lora_targets)
    digests.append(reader_digest(model))
    add_adapter(model.backbone.transformer, "reinforce", rank=2, seed=0, targets=model.backbone.lora_targets)
    assert reader_digest(model) == digests[-1]
    with torch.no_grad():
        next(model.heads.parameters()).add_(1e-3)
    digests.append(reader_digest(model))
    assert len(set(digests)) == 3


def test_ranks_share_an_evaluation_and_its_figures_are_those_of_one(
    session: Callable[..., dict[str, Any]], write_run: Callable[..., Path], clips: Path, tmp_path: Path
) -> None:
    """Three batches over two ranks: the second has none left in the last round, and takes longer for each than a step
    may. The stage's model is there already. The last scene, which the second rank looks at, is damaged.
    """
    (tmp_path / "scenes").mkdir()
    held_out = damaged(clips, tmp_path / "held-out", 5)
    model_folder.save(tiny(), tmp_path / "model-backbone", stage="backbone", base=None)
    for ranks in (1, 2):
        model_folder.save(tiny(), tmp_path / f"{ranks}" / "model-pretrain", stage="pretrain", base=None)
        run = write_run(tmp_path / "run.toml", tmp_path / f"{ranks}", clips, ["pretrain"], tmp_path / "model-backbone")
        changes = ("evaluate.scenes=6", f"evaluate.data={held_out}", "evaluate.on_bad=skip", "evaluate.batch=2")
        changes += ("evaluate.shown=4", "evaluate.samples=1")
        changes += ("timeouts={step=1}",)
        slow = {"measured": str(tmp_path / "scenes"), "seconds": 1.2} if ranks == 2 else {}
        ended = session("train", run, *(word for change in changes for word in ("--set", change)), ranks=ranks, **slow)
        assert ended["codes"] == [0] * ranks, ended["errors"]
        took = json.loads((tmp_path / f"{ranks}" / "provenance.json").read_text())["evaluation_seconds"]
        assert list(took) == ["pretrain"] and took["pretrain"] > 2.4 * (ranks - 1)
    measured = [(tmp_path / "scenes" / f"scenes-{rank}").read_text().splitlines() for rank in (0, 1)]
    assert measured[0][:2] == ["[0, 1]", "[4]"] and measured[1][0] == "[2, 3]"
    one, two = (tmp_path / f"{ranks}" / "evaluation" for ranks in (1, 2))
    assert json.loads((one / "pretrain.json").read_text()) == json.loads((two / "pretrain.json").read_text())
    for name, clips_kept in (("truth", 4), ("pretrain", 4), ("ranked/truth", 3), ("ranked/pretrain", 3)):
        ours, theirs = (np.load(folder / f"{name}.npz") for folder in (two, one))
        for array in theirs.files:
            assert len(theirs[array]) == clips_kept and np.array_equal(ours[array], theirs[array]), (name, array)
    table = json.loads((one / "pretrain.json").read_text())
    assert [reward is None for reward in table["scenes"]["reward"]] == 5 * [False] + [True]
    assert len(table["left_out"]) == 1


def damaged(clips: Path, folder: Path, *scenes: int) -> Path:
    """A copy of a dataset with a changed byte in the mp4s of some scenes."""
    shutil.copytree(clips, folder)
    dataset = ClipDataset(folder)
    for scene in scenes:
        row = dataset.row(scene)
        with open(folder / row["shard"], "r+b") as shard:
            shard.seek(row["members"]["mp4"]["offset"] + 40)
            shard.write(b"damaged")
    return folder


def test_a_scene_that_cannot_be_read_is_left_out_and_stated(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = damaged(clips, tmp_path / "data", 1)
    config = EvaluateConfig(data=data, scenes=4, samples=1, batch=1, shown=2)
    with pytest.raises(ClipFault, match="mp4 differs from its digest"):
        evaluate(tiny(), config, "tiny", ALONE)
    whole = evaluate(tiny(), config.model_copy(update={"data": clips}), "tiny", ALONE).table()
    result = evaluate(tiny(), config.model_copy(update={"on_bad": "skip"}), "tiny", ALONE)
    table, key = result.table(), ClipDataset(clips).row(1)["key"]
    [fault] = table["left_out"]
    assert f"clip {key}: mp4 differs from its digest" in fault and fault in capsys.readouterr().err
    for name, figures in table["scenes"].items():
        expected = whole["scenes"][name]
        assert figures == [expected[0], None, *expected[2:]]
    for name, figures in table["baseline_scenes"]["static_video"].items():
        expected = whole["baseline_scenes"]["static_video"][name]
        assert figures == [expected[0], None, *expected[2:]]
    keys = [ClipDataset(clips).row(scene)["key"] for scene in range(4)]
    assert table["names"]["key"] == [keys[0], None, *keys[2:]] and whole["names"]["key"] == keys
    assert table["names"]["category"] == ["", None, "", ""]  # these clips state none
    assert table["means"]["absrel"] == pytest.approx(np.mean([table["scenes"]["absrel"][scene] for scene in (0, 2, 3)]))
    assert [str(shown) for shown in result.truth["keys"]] == [ClipDataset(clips).row(scene)["key"] for scene in (0, 2)]
    more = damaged(clips, tmp_path / "more", 1, 3)
    with pytest.raises(UserError, match="2 of 4 clips cannot be used, at most 1 are skipped; one is"):
        evaluate(tiny(), config.model_copy(update={"data": more, "on_bad": "skip"}), "tiny", ALONE)


def test_what_a_kill_left_beside_the_results_is_none_of_them(tmp_path: Path) -> None:
    for name in ("pretrain.json", ".manifest.json.partial"):
        (tmp_path / name).write_text("{}")
    record_digests(tmp_path)
    assert integrity.read_manifest(tmp_path, "").keys() == {"pretrain.json"}
