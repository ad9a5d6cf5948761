"""Video Depth Anything: its arithmetic is that of the public code, on weights by a formula.

What is expected was computed by revision 4f5ae23 of github.com/DepthAnything/Video-Depth-Anything on a CPU in fp32.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.teachers.temporal_dpt import SIZES, Size, VideoDepthNetwork
from phys4d.teachers.video_depth_anything import VideoDepthAnything, VideoDepthAnythingConfig, resized
from tests.teachers.formula_weights import formula_weights, layout, waves

RELATIVE, METRIC = "video_depth_anything_vits", "metric_video_depth_anything_vits"
TINY = Size(16, 4, 2, (0, 1, 2, 3), (8, 8, 32, 32), 32)
CONFIG = VideoDepthAnythingConfig(resolution=28)


def weights(size: Size) -> dict[str, Tensor]:
    made = formula_weights(VideoDepthNetwork(size).state_dict())
    made["head.scratch.output_conv2.2.bias"] += 2  # less of the depth is 0
    return made


def made(folder: Path, name: str, size: str = "vits", config: VideoDepthAnythingConfig = CONFIG) -> VideoDepthAnything:
    """The prepared teacher with weights by the formula, in a file of this name."""
    folder.mkdir(exist_ok=True)
    save_file(weights(SIZES[size]), folder / f"{name}.safetensors")
    teacher = VideoDepthAnything(config, folder)
    teacher.prepare()
    return teacher


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "vits", TINY)


@pytest.mark.parametrize(
    ("size", "millions", "names", "digest"),
    [
        ("vits", 28.4, 351, "621c12c76491b7d195e60deb0cdbed047f3ba7d61dba4323536573bed4e4ec72"),
        ("vitb", 113.1, 351, "8fc97b8e316787d9727a7233077c7dcfcf7df84433fe5785c418df3379ec1869"),
        ("vitl", 381.8, 519, "55fa3f95c69599b78130af06506e8104866c10b6ecc6ef10b168fcbe2af76979"),
    ],
)
def test_the_published_key_layout_and_counts(size: str, millions: float, names: int, digest: str) -> None:
    with torch.device("meta"):
        network = VideoDepthNetwork(SIZES[size])
    tensors = network.state_dict()
    assert len(tensors) == names and layout(tensors) == digest
    # The published counts leave out the position embedding and a unit without a level to refine.
    left_out = "pretrained.pos_embed", "head.scratch.refinenet4.resConfUnit1."
    counted = sum(tensor.numel() for name, tensor in network.named_parameters() if not name.startswith(left_out))
    assert round(counted / 1e6, 1) == millions


PLACES = [(0, 3, 5), (11, 20, 30), (27, 0, 0), (31, 23, 35), (32, 5, 17)]


@pytest.mark.parametrize(
    ("name", "mean", "at_places"),
    [
        (RELATIVE, 0.6681339, [0.7326840, 0.2050032, 1.5277162, 1.1117864, 0.4463964]),
        (METRIC, 0.80848545, [0.7326840, 0.2050032, 1.7461909, 1.5695596, 0.6966017]),
    ],
)
def test_a_clip_of_three_windows_is_that_of_the_public_code(
    tmp_path: Path, name: str, mean: float, at_places: list[float]
) -> None:
    depth, valid = made(tmp_path, name).label(waves(49, 24, 36))
    assert depth.shape == (49, 24, 36) and depth.dtype == np.float32
    np.testing.assert_allclose([depth[at] for at in PLACES], at_places, rtol=2e-4)
    assert depth.mean() == pytest.approx(mean, rel=2e-5) and np.array_equal(valid, depth > 0)


def test_frames_are_resized_and_normalised_as_published(tiny: None, tmp_path: Path) -> None:
    sizes = [(480, 720), (720, 1280), (1080, 1920), (512, 512), (720, 480), (300, 1000), (100, 101)]
    expected = [(518, 784), (518, 924), (518, 924), (518, 518), (784, 518), (280, 938), (518, 518)]
    assert [resized(*size, 518) for size in sizes] == expected
    teacher = made(tmp_path, RELATIVE)
    grey = teacher._prepared(np.full((10, 20, 3), 102, np.uint8))  # 0.4
    assert grey.shape == (3, 28, 56)
    np.testing.assert_allclose(grey[:, 0, 0], [-0.3711790, -0.2500000, -0.0266667], atol=1e-6)
    frame = waves(1, 60, 80)[0]
    exact = cv2.resize(frame.astype(np.float32) / 255, (42, 28), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(teacher._prepared(frame)[1], (exact[..., 1] - 0.456) / 0.224, atol=1e-6)


def test_batches_threads_and_short_clips_change_nothing(tiny: None, tmp_path: Path) -> None:
    video, one = waves(25, 20, 30), made(tmp_path / "a", METRIC)
    depth = one.label(video)[0]
    more = made(tmp_path / "b", METRIC, config=CONFIG.model_copy(update={"batch": 7}))
    np.testing.assert_allclose(more.label(video)[0], depth, rtol=1e-4, atol=1e-6)
    assert depth.std() > 0.01 and one.label(video[:1])[0].shape == (1, 20, 30)
    assert not np.allclose(one.label(video[5:6])[0], depth[5:6], rtol=1e-3)  # other frames are looked at


def test_the_name_of_the_file_says_what_it_gives(tiny: None, tmp_path: Path) -> None:
    relative, metric = made(tmp_path / "a", RELATIVE), made(tmp_path / "b", METRIC)
    assert (relative.depth_kind, metric.depth_kind) == ("affine_disparity", "metric")
    record = json.loads(json.dumps(metric.provenance()))
    file = tmp_path / "b" / f"{METRIC}.safetensors"
    assert record["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["file"] == file.name and record["settings"] == {"batch": 4, "resolution": 28}


def test_absent_several_and_pickled_weights(tiny: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: no weights of Video .* put there one of video_depth_anything_vits, "):
        VideoDepthAnything(CONFIG, tmp_path / "absent")
    torch.save(weights(TINY), tmp_path / f"{METRIC}.pth")
    with pytest.raises(UserError, match=rf"{METRIC}\.pth: is no safetensors file: convert it: python -c .*") as refused:
        VideoDepthAnything(CONFIG, tmp_path)
    command = str(refused.value).partition("convert it: python")[2]
    subprocess.run(f"{sys.executable}{command}", shell=True, check=True)
    VideoDepthAnything(CONFIG, tmp_path).prepare()
    save_file(weights(TINY), tmp_path / f"{RELATIVE}.safetensors")
    with pytest.raises(UserError, match=f"holds {RELATIVE}.safetensors and {METRIC}.safetensors: put each in"):
        VideoDepthAnything(CONFIG, tmp_path)


def test_damaged_and_foreign_weights_name_file_and_key(tiny: None, tmp_path: Path) -> None:
    made(tmp_path, RELATIVE)
    file = tmp_path / f"{RELATIVE}.safetensors"
    whole, bytes_ = load_file(file), file.read_bytes()
    cases: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda w: w.pop("head.projects.1.bias"), "has no head.projects.1.bias"),
        (lambda w: w.update(extra=torch.ones(1)), "extra is not of it"),
        (lambda w: w.update({"pretrained.cls_token": torch.ones(1, 1, 8)}), r"has shape \[1, 1, 8\], not \[1, 1, 16\]"),
        (lambda w: (w.clear(), w.update({"conv.weight": torch.ones(1)})), "has no pretrained.cls_token"),
    ]
    for change, message in cases:
        changed = dict(whole)
        change(changed)
        save_file(changed, file)
        with pytest.raises(UserError, match=rf"{file.name}: holds no weights of .* vits \(.*{message}\): take the vid"):
            VideoDepthAnything(CONFIG, tmp_path).prepare()
    file.write_bytes(bytes_[: len(bytes_) // 2])
    with pytest.raises(UserError, match=rf"{file.name}: does not load \(.*\): download it again"):
        VideoDepthAnything(CONFIG, tmp_path).prepare()


def test_the_command_line(
    tiny: None, write_clips: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = write_clips("videos", 2, 2, truth=False)
    words = ["label", "--videos", str(videos), "--out", str(tmp_path / "out"), "--teacher", "video-depth-anything"]
    assert main(words) == 2
    assert "--teacher video-depth-anything: needs --weights DIR" in capsys.readouterr().err
    words += ["--set", "depth.resolution=28"]
    for name in (METRIC, RELATIVE):
        made(tmp_path / name, name)
    assert main([*words, "--weights", str(tmp_path / METRIC), "--set", "depth.resolution=30"]) == 2
    assert "resolution" in capsys.readouterr().err and not (tmp_path / "out").exists()
    for name, kind in ((METRIC, "metric"), (RELATIVE, "affine_disparity")):
        words[4] = str(tmp_path / kind)
        assert main([*words, "--weights", str(tmp_path / name)]) == 0
        assert verify(Path(words[4])) == []
        meta = ClipDataset(Path(words[4])).meta(0)
        record = meta["provenance"]["labels"]["depth"]
        assert record["name"] == "Video Depth Anything" and len(record["weights_sha256"]) == 64
        assert meta["depth_kind"] == record["kind"] == kind

