"""`phys4d evaluate --suite 4d` on model folders: generated clips and read videos, each scored against its truth."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from phys4d.cli import main
from phys4d.engine.data.clip.video import encode_mp4
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


@pytest.fixture(scope="module")
def videos(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two videos of another model, of which the first is the true one."""
    folder = tmp_path_factory.mktemp("videos") / "other-model"
    folder.mkdir()
    for number in (0, 1):
        sample = ClipDataset(clips)[number]
        shown = sample.video if number == 0 else np.repeat(sample.video[:1], len(sample.video), axis=0)
        (folder / f"{sample.key}.mp4").write_bytes(encode_mp4(shown, 8.0, pixel_format="yuv444p"))
    return folder


def test_videos_of_another_model_are_scored_by_what_a_model_reads_off_them(
    run: Path, clips: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A true video scores what the reader scores on the true clip, whose mp4 is the same; another one does not."""
    words = ["--videos", str(videos), "--reader", str(run), "--data", str(clips), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "--suite", "4d", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("means over clips (other-model 2)")
    found = json.loads((tmp_path / "out/other-model.json").read_text())
    reads = score_models(model_folders([run]), EvaluateConfig(data=clips, scenes=2, samples=1, batch=2), ALONE)
    assert reads is not None and list(found["clips"]) == ["clip0", "clip1"] and len(found["read_by"]) == 16
    true, same = (rows["clips"]["clip0"]["values"] for rows in (reads["pretrain-reads"], found))
    still = found["clips"]["clip1"]["values"]
    for name in ("absrel", "epe", "warp_l1", "tae"):
        assert same[name] == pytest.approx(true[name], rel=0.02), name
    other = reads["pretrain-reads"]["clips"]["clip1"]["values"]
    assert abs(still["absrel"] / other["absrel"] - 1) > 1e-4
    results = [str(tmp_path / "out/other-model.json")] * 2
    assert main(["evaluate", "--compare", *results]) == 2  # two of one name


def test_videos_that_cannot_be_scored_are_one_clear_line(
    run: Path, clips: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(folder: Path, *more: str) -> str:
        words = ["--videos", str(folder), "--data", str(clips), *(more or ("--reader", str(run)))]
        assert main(["evaluate", "--suite", "4d", *words]) == 2
        [error] = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("evaluate ")]
        return error

    true = ClipDataset(clips)[0].video
    cases = {
        "short": (true[:3], "holds 3 frames, 0.12 s, its truth 5 at 24 a second: generate 0.21 s"),
        "wide": (true.repeat(2, 2), "is of 16 x 32 pixels, its truth of 16 x 16: crop or pad it"),
    }
    for name, (frames, words) in cases.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "clip0.mp4").write_bytes(encode_mp4(frames, 24.0, pixel_format="yuv444p"))
        assert words in (error := said(tmp_path / name)) and f"{name}/clip0.mp4" in error, error
    (tmp_path / "empty").mkdir()
    assert "holds no videos: expected KEY.mp4" in said(tmp_path / "empty")
    (tmp_path / "empty" / "clip0.mp4").write_bytes(b"")
    assert "empty/clip0.mp4:" in said(tmp_path / "empty")
    (tmp_path / "empty" / "stranger.mp4").write_bytes(b"")
    assert "has no clip of that key (its first is clip0)" in said(tmp_path / "empty")
    assert "--videos and --reader belong together" in said(videos, "--seed", "0")
    assert "expected the folder of one model" in said(videos, "--reader", str(tmp_path))
    assert "--scenes: does not belong to --videos" in said(videos, "--reader", str(run), "--scenes", "2")
