"""Depth Anything: plumbing only. The weights are random: nothing is said about the quality of its depth."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load, save

from phys4d.engine.errors import UserError
from phys4d.teachers.depth_anything import DepthAnything, DepthAnythingConfig

Save = Callable[[Path, str], None]
CONFIG = DepthAnythingConfig()


@pytest.mark.parametrize(("kind", "expected"), [("metric", "metric"), ("relative", "affine_disparity")])
def test_local_weights_give_depth_of_the_kind_that_the_config_says(
    save_depth_anything: Save, tmp_path: Path, kind: str, expected: str
) -> None:
    save_depth_anything(tmp_path, kind)
    teacher = DepthAnything(DepthAnythingConfig(batch=2), tmp_path)
    assert teacher.depth_kind == expected
    teacher.prepare()
    video = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    depth, valid = teacher.label(video)
    assert depth.shape == valid.shape == (3, 20, 30)
    assert depth.dtype == np.float32 and np.isfinite(depth).all() and (depth >= 0).all()
    assert np.array_equal(valid, depth > 0 if kind == "metric" else depth >= 0)
    one_by_one = np.concatenate([teacher.label(video[t : t + 1])[0] for t in range(3)])
    np.testing.assert_allclose(depth, one_by_one, rtol=1e-4, atol=1e-6)
    if kind == "metric":
        assert depth.max() <= 20


def test_absent_weights_are_refused_with_what_to_do(save_depth_anything: Save, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: no config.json.*put config.json, .*model.safetensors"):
        DepthAnything(CONFIG, tmp_path / "absent")
    save_depth_anything(tmp_path, "metric")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors in the folder"):
        DepthAnything(CONFIG, tmp_path)


def test_another_model_is_refused(save_depth_anything: Save, tmp_path: Path) -> None:
    save_depth_anything(tmp_path, "metric")
    (tmp_path / "config.json").write_text('{"model_type": "dpt"}')
    with pytest.raises(UserError, match="model_type is 'dpt'"):
        DepthAnything(CONFIG, tmp_path)


def test_what_the_folder_holds_is_checked_before_its_weights_are_read(
    save_depth_anything: Save, tmp_path: Path
) -> None:
    save_depth_anything(tmp_path, "metric")
    settings = tmp_path / "preprocessor_config.json"
    whole = settings.read_text()
    for text, message in (
        ("{", "preprocessor_config.json: is no JSON"),
        ("[]", "preprocessor_config.json: is no JSON object"),
        (whole.replace("image_std", "std"), "preprocessor_config.json: has no image_std"),
        (whole.replace("height", "shortest_edge"), "preprocessor_config.json: size has no height and width"),
    ):
        settings.write_text(text)
        with pytest.raises(UserError, match=message):
            DepthAnything(CONFIG, tmp_path)


def test_damaged_and_foreign_weights_are_refused(save_depth_anything: Save, tmp_path: Path) -> None:
    save_depth_anything(tmp_path, "metric")
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="model.safetensors: does not load .*: download it again"):
        DepthAnything(CONFIG, tmp_path).prepare()
    tensors = load(whole)
    removed = tensors.pop(sorted(tensors)[0])
    file.write_bytes(save(tensors))
    with pytest.raises(UserError, match="model.safetensors: has no .* which config.json asks for"):
        DepthAnything(CONFIG, tmp_path).prepare()
    assert removed.numel() > 0


def test_the_record_names_settings_and_weights(save_depth_anything: Save, tmp_path: Path) -> None:
    save_depth_anything(tmp_path, "metric")
    teacher = DepthAnything(DepthAnythingConfig(batch=3), tmp_path)
    teacher.prepare()
    record = json.loads(json.dumps(teacher.provenance()))
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert record["name"] == "Depth Anything" and record["weights_sha256"] == digest
    assert record["settings"]["batch"] == 3 and record["settings"]["max_depth"] == 20
    assert record["settings"]["preprocessing"]["size"] == {"height": 28, "width": 28}


def test_threads_share_one_network(save_depth_anything: Save, tmp_path: Path) -> None:
    save_depth_anything(tmp_path, "metric")
    teacher = DepthAnything(CONFIG, tmp_path)
    teacher.prepare()
    videos = np.random.default_rng(1).integers(0, 256, (8, 3, 20, 30, 3), dtype=np.uint8)
    alone = [teacher.label(video)[0] for video in videos]
    with ThreadPoolExecutor(4) as pool:
        together = [depth for depth, _ in pool.map(teacher.label, videos)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
