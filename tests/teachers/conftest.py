"""Small scenes in closed form: a textured ball that flies in front of a wall and a floor."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.files.shards import ShardWriter

FRAMES, SIZE, FOCAL = 5, 32, 40.0


def ball_clip(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """video uint8 [T, H, W, 3] and depth float32 [T, H, W] of one random scene."""
    v, u = (np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2) / FOCAL
    rays = np.stack([u, v, np.ones_like(u)], -1)
    floor = np.where(v > 0.01, 0.55 / np.maximum(v, 1e-6), np.inf)
    background = np.minimum(floor, 3.0)
    texture = 0.5 + 0.25 * np.sin(9 * rays[..., :1] * background[..., None] + rng.uniform(0, 6, 3))
    colour, radius = rng.uniform(0.3, 1, 3), rng.uniform(0.2, 0.3)
    centre, velocity = np.array([*rng.uniform(-0.3, 0.3, 2), 1.8]), rng.uniform(-0.05, 0.05, 3)
    video, depth = [], []
    for frame in range(FRAMES):
        at = centre + frame * velocity
        a, b, c = (rays**2).sum(-1), rays @ at, at @ at - radius**2
        hit = b**2 > a * c
        z = np.where(hit, (b - np.sqrt(np.maximum(b**2 - a * c, 0))) / a, np.inf)
        normal = (rays * np.where(hit, z, 0)[..., None] - at) / radius
        shade = colour * (0.6 - 0.4 * normal[..., 2:]) * (0.8 + 0.2 * np.sign(np.sin(8 * normal[..., :1])))
        video.append(np.where(hit[..., None], shade, texture).clip(0, 1) * 255)
        depth.append(np.minimum(z, background))
    return np.stack(video).astype(np.uint8), np.stack(depth).astype(np.float32)


@pytest.fixture
def write_clips(tmp_path: Path) -> Callable[..., Path]:
    """write(name, seed, clips, truth=True | False | bytes): a dataset folder of ball clips."""

    def write(name: str, seed: int, clips: int, truth: bool | bytes = True) -> Path:
        folder = tmp_path / name
        with ShardWriter(folder) as writer:
            for index in range(clips):
                video, depth = ball_clip(np.random.default_rng((seed, index)))
                members = {"mp4": encode_mp4(video, 24)}
                if isinstance(truth, bytes):
                    members["truth"] = truth
                elif truth:
                    members["truth"] = blob.encode({"depth": depth, "depth_valid": depth > 0})
                meta = {
                    "caption": "a ball flies",
                    "fps": 24,
                    "intrinsics": np.eye(3)[None].repeat(FRAMES, 0).tolist(),
                    "objects": [{"name": "ball"}],
                    "tracks": {"3": {}},
                    "provenance": {"seed": seed, "index": index},
                }
                members["json"] = json.dumps(meta).encode()
                writer.add(f"clip{index:06d}", members, FRAMES, 24, SIZE, SIZE)
        return folder

    return write


@pytest.fixture
def save_depth_anything() -> Callable[[Path, str], None]:
    """save(folder, "metric" or "relative"): a tiny Depth Anything model of random weights, stored by transformers."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    def write(folder: Path, kind: str) -> None:
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

    return write
