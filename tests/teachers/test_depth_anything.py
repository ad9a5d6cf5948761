"""Depth Anything: plumbing only. The weights are random: nothing is said about the quality of its depth."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from phys4d.engine.errors import UserError
from phys4d.teachers.depth_anything import DepthAnything


def save_tiny(folder: Path, kind: str) -> None:
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=28,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    settings = {
        "size": {"height": 28, "width": 28},
        "ensure_multiple_of": 14,
        "keep_aspect_ratio": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(("kind", "expected"), [("metric", "metric"), ("relative", "affine_disparity")])
def test_local_weights_give_depth_of_the_kind_that_the_config_says(tmp_path: Path, kind: str, expected: str) -> None:
    save_tiny(tmp_path, kind)
    teacher = DepthAnything(tmp_path, batch=2)
    assert teacher.depth_kind == expected
    video = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    depth, valid = teacher.label(video)
    assert depth.shape == valid.shape == (3, 20, 30)
    assert depth.dtype == np.float32 and np.isfinite(depth).all() and (depth[valid] > 0).all()
    one_by_one = np.concatenate([teacher.label(video[t : t + 1])[0] for t in range(3)])
    np.testing.assert_allclose(depth, one_by_one, rtol=1e-4, atol=1e-6)
    if kind == "metric":
        assert depth.max() <= 20


def test_absent_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: no config.json.*put config.json, .*model.safetensors"):
        DepthAnything(tmp_path / "absent")
    save_tiny(tmp_path, "metric")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors in the folder"):
        DepthAnything(tmp_path)


def test_another_model_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, "metric")
    (tmp_path / "config.json").write_text('{"model_type": "dpt"}')
    with pytest.raises(UserError, match="model_type is 'dpt'"):
        DepthAnything(tmp_path)
