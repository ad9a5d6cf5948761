"""Labels of depth up to scale and shift in a run: mixed with metric ones, learnt from, refused where metres count."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from phys4d.caches.read import LatentCache
from phys4d.caches.source import source_of
from phys4d.cli import main
from phys4d.clips import PSEUDO, TRUTH, Clips
from phys4d.engine.data.clip import blob
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.evaluate.consistency.depth import absrel, absrel_aligned
from phys4d.mixture import Mixture, Part
from phys4d.models.tiny.words import WordEncoder
from phys4d.stages.pretrain import PretrainConfig, PretrainObjective
from tests.stages.test_evaluation import tiny

ALONE = Parallel.alone()
KIND = "affine_disparity"


@pytest.fixture(scope="module")
def affine(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of `clips` with disparity, of a scale and shift of its own in each, and all other arrays."""
    folder, dataset = tmp_path_factory.mktemp("affine") / "affine", ClipDataset(clips)
    with ShardWriter(folder) as writer:
        for index in range(len(dataset)):
            sample, row = dataset[index], dataset.row(index)
            arrays = dict(sample.arrays)
            arrays["depth"] = (40 + 90 * index) / arrays["depth"] + 10 * index
            arrays["dz_valid"] = np.zeros_like(arrays["dz_valid"])
            members = {
                "mp4": dataset.member(row, "mp4"), "truth": blob.encode(arrays, blob.quantisation(arrays, KIND)),
                "json": json.dumps(sample.meta | {"depth_kind": KIND}).encode(),
            }  # fmt: skip
            writer.add(f"a{row['key']}", members, *(row[name] for name in ("frames", "fps", "height", "width")))
    return folder


def test_such_a_dataset_is_sound_and_counted(affine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(affine) == []
    assert main(["data", "stats", str(affine)]) == 0
    assert f"{KIND}          8  100.0%" in capsys.readouterr().out


def test_a_batch_says_of_each_clip_what_its_depth_is(clips: Path, affine: Path, tmp_path: Path) -> None:
    mixed = Clips([Part(clips), Part(affine)], PSEUDO, WordEncoder(), affine_depth=True)
    assert mixed.affine
    seen = set()
    for step in range(4):
        batch = mixed.batch(4, ALONE, 0, "pretrain", step)
        assert batch.affine == tuple(str(affine) in name for name in mixed.latest)
        assert [bool(x) for x in batch.arrays["depth"].amax((1, 2, 3)) > 3] == list(batch.affine)
        assert batch.take([3, 0]).affine == (batch.affine[3], batch.affine[0])
        seen |= set(batch.affine)
    assert seen == {True, False}
    metric = Clips(clips, PSEUDO, WordEncoder(), affine_depth=True)
    assert not metric.affine and metric.batch(4, ALONE, 0, "pretrain", 0).affine == ()
    assert main(["data", "encode", str(affine), "--model", "tiny", "--out", str(tmp_path / "cache")]) == 0
    encoders = source_of("tiny").encoders()
    cache = LatentCache(tmp_path / "cache", ClipDataset(affine), "tiny", source_of("tiny").origin(), "")
    cached = Clips(affine, PSEUDO, encoders[1], encoded=cache, affine_depth=True)
    assert cached.batch(4, ALONE, 0, "pretrain", 0).affine == (True,) * 4


def test_an_index_of_another_kind_than_the_json_is_refused(affine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unstated"
    folder.mkdir()
    for path in affine.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "manifest.json").unlink()
    pq.write_table(pq.read_table(folder / "index.parquet").drop_columns(["depth_kind"]), folder / "index.parquet")
    assert verify(folder) == []
    with pytest.raises(UserError, match=rf"unstated/.*json depth_kind: is {KIND}, the index says another: write this"):
        Clips(folder, TRUTH, WordEncoder()).batch(2, ALONE, 0, "finetune", 0)
    assert Clips(folder, (), WordEncoder()).batch(2, ALONE, 0, "backbone", 0).affine == ()  # depth is not read


def test_a_mixture_asks_for_metres_unless_it_is_allowed_not_to(affine: Path, clips: Path) -> None:
    """The first clip that takes part is named."""
    parts = [Part(clips), Part(affine, where={"caption": ["a square slides 3", "a square slides 5"]})]
    with pytest.raises(UserError, match=f"{affine}: clip aclip3: its depth is {KIND}"):
        Mixture(parts, TRUTH)
    allowed = Mixture(parts, TRUTH, affine_depth=True)
    assert allowed.affine.tolist() == [False] * 8 + [True] * 2 and len(allowed) == 10
    assert not Mixture(parts, ()).affine.any()


def test_metres_are_asked_for_in_one_line(affine: Path, clips: Path, refused: Callable[..., str]) -> None:
    what = f"{affine}: clip aclip0: its depth is {KIND}, up to scale and shift, and metres are needed here: only pr"
    for key in ("finetune.data", "reinforce.data", "evaluate.data"):
        assert refused(clips, f'{key}="{affine}"').startswith(f"{key}: {what}"), key
    mixed = f'finetune.data=[{{folder="{clips}"}}, {{folder="{affine}"}}]'
    assert refused(clips, mixed).startswith(f"finetune.data.1: {what}")
    with pytest.raises(UserError, match=f"{affine}: clip aclip0: its depth is {KIND}"):
        Clips(affine, TRUTH, WordEncoder())


def test_a_run_learns_from_both_kinds(
    write_run: Callable[..., Path], affine: Path, clips: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ["backbone", "pretrain"])
    data = f'pretrain.data=[{{folder="{clips}", weight=1}}, {{folder="{affine}", weight=1}}]'
    words = ["--set", data, "--set", "pretrain.batch=4", "--set", "pretrain.micro_batch=1"]
    assert main(["train", str(run), *words, "--dry-run"]) == 0
    assert main(["train", str(run), *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line.get("stage") == "pretrain" and "loss" in line]
    assert logged and all({"depth_loss", "disparity_loss"} <= line.keys() for line in logged)
    means = json.loads((tmp_path / "out" / "evaluation" / "pretrain.json").read_text())["means"]
    assert 0 < means["absrel_aligned"] < means["absrel"]


@pytest.mark.slow
def test_two_ranks_with_a_kind_each_are_one(
    session: Callable[..., dict[str, Any]], write_run: Callable[..., Path], affine: Path, clips: Path, tmp_path: Path
) -> None:
    """Batches of two clips, so that a rank often has none of one kind; both log the same terms."""
    logged = []
    for ranks in (1, 2):
        run = write_run(tmp_path / f"{ranks}.toml", tmp_path / f"{ranks}", clips, ["backbone", "pretrain"])
        run.write_text(run.read_text().partition("[reinforce]")[0].replace("steps = 3", "steps = 6"))
        data = f'pretrain.data=[{{folder="{clips}"}}, {{folder="{affine}"}}]'
        ended = session("train", run, "--set", data, ranks=ranks)
        assert ended["codes"] == [0] * ranks
        lines = map(json.loads, (tmp_path / f"{ranks}" / "metrics.jsonl").read_text().splitlines())
        terms = ("loss", "depth_loss", "disparity_loss", "flow_loss")
        trained = [line for line in lines if line.get("stage") == "pretrain" and "loss" in line]
        logged.append([[line[term] for term in terms] for line in trained])
    assert len(logged[0]) == 6 and any(one > 0 and other > 0 for _, one, other, _ in logged[0])  # one of each
    np.testing.assert_allclose(logged[1], logged[0], rtol=1e-4, atol=1e-6)


def test_relative_depth_gets_better_without_any_metric_label(affine: Path, clips: Path) -> None:
    """Of clips with labels up to scale and shift alone: depth behind the best scale and shift of each clip, against the
    metric truth. Metres are not learnt."""
    model = tiny()
    config: Any = PretrainConfig(
        data=affine, batch=8, optimizer={"learning_rate": 1e-2}, loop={"steps": 1}, weights={"flow": 0, "margin": 0}
    )
    PretrainObjective.prepare(model, config, 0)
    stage = PretrainObjective(config, model, ALONE, 0)
    adam = torch.optim.Adam(model.heads.parameters(), 3e-3)
    truth = Clips(clips, TRUTH, model.text).collate(range(8), [(0, "probe", k) for k in range(8)])

    def figures() -> tuple[float, float]:
        with torch.no_grad():
            clean = truth.encoded(model.codec)
            depth = model.read_geometry(clean, truth.text, truth.normal_like(clean, "probe")).depth
        known = truth.arrays["depth"], truth.arrays["depth_valid"]
        return float(absrel_aligned(depth, *known).mean()), float(absrel(depth, *known).mean())

    def optimizer_step(losses: Any) -> Any:
        loss = sum(loss() for loss in losses)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.heads.parameters(), 1.0)
        adam.step()
        return loss.detach()

    before, losses = figures(), []
    for step in range(40):
        losses.append(float(stage.update(step, optimizer_step)["disparity_loss"]))
    after = figures()
    assert losses[-1] < 0.3 * losses[0]
    assert after[0] < 0.4 * before[0], (before, after)
    assert after[1] > 0.15
