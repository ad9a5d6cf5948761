"""The small depth network learns, reproducibly, and names what it needs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from phys4d.engine.data.clip import blob
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.teachers.depth_unet import DepthUNet
from phys4d.teachers.small_depth import SmallDepth, SmallDepthConfig

ARRAYS = ("depth", "depth_valid")


def trained(config: SmallDepthConfig, scenes: Path) -> SmallDepth:
    teacher = SmallDepth(config, scenes)
    teacher.prepare()
    return teacher


def test_it_learns_depth_of_scenes_that_it_has_not_seen(write_clips: Callable[..., Path]) -> None:
    config = SmallDepthConfig(steps=100, batch=8, width=8)
    teacher = trained(config, write_clips("train", 1, 12))
    held_out = ClipDataset(write_clips("held-out", 2, 3), arrays=ARRAYS)
    guess = np.exp(teacher.mean)
    error, error_of_guess = [], []
    for index in range(len(held_out)):
        sample = held_out[index]
        depth, valid = teacher.label(sample.video)
        assert depth.shape == sample.arrays["depth"].shape and depth.dtype == np.float32 and valid.all()
        error.append(np.mean(np.abs(depth / sample.arrays["depth"] - 1)))
        error_of_guess.append(np.mean(np.abs(guess / sample.arrays["depth"] - 1)))
    assert np.mean(error) < 0.1
    assert np.mean(error) < 0.4 * np.mean(error_of_guess)


def test_the_seed_alone_decides(write_clips: Callable[..., Path]) -> None:
    scenes = write_clips("train", 1, 3)
    config = SmallDepthConfig(steps=4, batch=4, width=4)
    first = trained(config, scenes)
    torch.rand(7)  # the global generator must not matter
    again, other = trained(config, scenes), trained(config.model_copy(update={"seed": 1}), scenes)
    video = ClipDataset(scenes)[0].video
    assert np.array_equal(first.label(video)[0], again.label(video)[0])
    assert not np.array_equal(first.label(video)[0], other.label(video)[0])
    assert len(first.scenes) == 6  # pixels and origin of three clips
    digests = [teacher.provenance()["weights_sha256"] for teacher in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_long_clip_is_labelled_in_parts_in_order(write_clips: Callable[..., Path]) -> None:
    teacher = trained(SmallDepthConfig(steps=1, batch=2, width=4), write_clips("train", 1, 1))
    video = np.random.default_rng(0).integers(0, 256, (70, 8, 10, 3), dtype=np.uint8)
    depth, valid = teacher.label(video)
    assert depth.shape == valid.shape == (70, 8, 10)
    np.testing.assert_allclose(depth[60:], teacher.label(video[60:])[0], rtol=1e-5)


def test_any_frame_size_and_about_a_quarter_million_parameters() -> None:
    network = DepthUNet(SmallDepthConfig().width)
    assert network(torch.zeros(2, 3, 19, 30)).shape == (2, 19, 30)
    assert 200_000 < sum(p.numel() for p in network.parameters()) < 300_000


def test_faults_are_named_before_training(write_clips: Callable[..., Path]) -> None:
    config = SmallDepthConfig(steps=1)
    with pytest.raises(UserError, match="holds no clips"):
        SmallDepth(config, write_clips("empty", 1, 0))
    with pytest.raises(UserError, match="clip clip000000 has no true depth"):
        SmallDepth(config, write_clips("bare", 1, 1, truth=False))
    with pytest.raises(UserError, match="clip clip000000: truth .*depth_valid"):
        SmallDepth(config, write_clips("other", 1, 1, truth=blob.encode({"depth": np.ones((5, 32, 32), np.float32)})))
