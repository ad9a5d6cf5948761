"""`phys4d evaluate --suite 4d` on model folders: generated clips and read videos, each scored against its truth."""

import json
import math
from pathlib import Path

import pytest
import torch

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.evaluate.consistency.clip import ClipFigures, clip_figures
from phys4d.evaluate.consistency.models import mean_figures, model_folders, score_models
from phys4d.evaluate.scenes import EvaluateConfig, prepare
from phys4d.models import folder as model_folder
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.world import create_model

ALONE = Parallel.alone()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two stages, of which only the first has a model."""
    folder = tmp_path_factory.mktemp("run")
    config = ModelConfig(width=32, layers=2, taps=(0, 1), heads=HeadConfig(width=8), sampling_steps=2)
    model_folder.save(create_model(config, 5, 16, 16, seed=0), folder / "model-pretrain", stage="pretrain", base=None)
    (folder / "config.toml").write_text('stages = ["pretrain", "finetune"]')
    return folder


def test_figures_are_those_of_the_generated_and_the_read_geometry(run: Path, clips: Path) -> None:
    config = EvaluateConfig(data=clips, scenes=3, samples=2, batch=2, seed=7)
    rows = score_models(model_folders([run]), config, ALONE)
    assert rows is not None and list(rows) == ["pretrain", "pretrain-reads"]
    model = model_folder.load(run / "model-pretrain").model
    data = prepare(model, config, ALONE).clips
    sample = ClipDataset(clips)[2]
    with torch.no_grad():
        batch = data.collate([2], [(7, "evaluate", 2)])
        clean = batch.encoded(model.codec)
        first = batch.first(model.codec, clean)
        read = model.read_geometry(clean, batch.text, batch.normal_like(clean, "probe"), first=first)
        made = []
        for s in range(2):
            latents = model.generate(first, batch.text, batch.normal_like(clean, f"sample {s}"))
            probe = batch.normal_like(clean, f"sample {s} probe")
            made.append(model.read_geometry(latents, batch.text, probe, first=first))
    for row, geometries in (("pretrain", made), ("pretrain-reads", [read])):
        found = rows[row]["clips"]["clip2"]["values"]
        arrays = [{"depth": one.depth[0].numpy(), "motion": one.motion[0].numpy()} for one in geometries]
        each = [clip_figures(one, sample.arrays, sample.meta).values for one in arrays]
        for name in ("absrel", "epe", "scene_flow", "warp_l1", "chamfer_4d_aligned", "tae"):
            assert found[name] == pytest.approx(sum(one[name] for one in each) / len(each), rel=1e-4), (row, name)
    assert rows["pretrain"]["clips"].keys() == {"clip0", "clip1", "clip2"}


def test_the_command_writes_both_rows(
    run: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(clips), "--scenes", "2", "--samples", "1", "--out", str(tmp_path / "out")]
    assert main(["evaluate", "--suite", "4d", str(run / "model-pretrain"), *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("means over clips (pretrain 2, pretrain-reads 2)")
    assert json.loads((tmp_path / "out/pretrain-reads.json").read_text())["row"] == "pretrain-reads"


def test_rows_are_called_by_their_stages(run: Path) -> None:
    assert model_folders([run]) == {"pretrain": run / "model-pretrain"} == model_folders([run / "model-pretrain"])
    with pytest.raises(UserError, match="a row pretrain is there already"):
        model_folders([run, run / "model-pretrain"])


def test_means_over_samples_leave_out_what_could_not_be_measured() -> None:
    samples = [
        ClipFigures({"a": 1.0, "b": math.nan, "c": math.nan}, {"d": [1.0, math.nan]}),
        ClipFigures({"a": 3.0, "b": 5.0, "c": math.nan}, {"d": [2.0, 4.0]}),
    ]
    found = mean_figures(samples)
    assert (found.values["a"], found.values["b"]) == (2, 5) and math.isnan(found.values["c"])
    assert found.curves == {"d": [1.5, 4.0]}
