"""`phys4d generate`: what is written, equal again from the seed, resumed after a kill, refused in one line."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phys4d.cli import main
from phys4d.engine.data.clip import blob
from phys4d.engine.data.decoders.pyav import PyAVDecoder

Run = Callable[..., int]
FILES = ["clip.json", "clip.truth", "frames", "points", "side-by-side.mp4", "video.mp4"]


def generate(*words: object) -> int:
    return main(["generate", *map(str, words)])


@pytest.fixture(scope="module")
def clip(tiny_run: Path, picture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one clip, with all that can be written."""
    out = tmp_path_factory.mktemp("clips") / "one"
    words = ("--image", picture, "--prompt", "a red ball falls", "--frames-png", "--points", 400, "--seed", 3)
    assert generate("--model", tiny_run, *words, "--fov", 90, "--fps", 8, "--out", out) == 0
    return out


def test_a_clip_holds_video_depth_motion_and_points(clip: Path) -> None:
    assert sorted(path.name for path in clip.iterdir()) == FILES
    meta = json.loads((clip / "clip.json").read_text())
    assert meta["caption"] == "a red ball falls" and meta["fps"] == 8 and len(meta["intrinsics"]) == 5
    assert meta["intrinsics"][0] == pytest.approx(np.array([[24, 0, 24], [0, 24, 24], [0, 0, 1]]))  # 90 degrees
    arrays = blob.decode((clip / "clip.truth").read_bytes())
    assert arrays["depth"].shape == (5, 48, 48) and arrays["motion"].shape == (3, 4, 48, 48)
    assert (arrays["depth"] > 0).all() and arrays["depth_valid"].all()
    frames = [np.asarray(Image.open(path)) for path in sorted((clip / "frames").iterdir())]
    assert len(frames) == 5 and frames[0].shape == (48, 48, 3)
    red = frames[0][20, 25].astype(int)
    assert red[0] - red[1] > 80, "the first frame is the picture"
    panels = PyAVDecoder().decode((clip / "side-by-side.mp4").read_bytes(), 0, 5)
    assert panels.shape == (5, 20 + 5 * 48, 3 * 5 * 48 + 8, 3)


def test_points_are_the_depth_lifted_by_the_intrinsics(clip: Path) -> None:
    depth = blob.decode((clip / "clip.truth").read_bytes(), ["depth"])["depth"]
    head, _, rest = (clip / "points" / "0000.ply").read_bytes().partition(b"end_header\n")
    count = int(re.findall(rb"element vertex (\d+)", head)[0])
    rows = list(struct.iter_unpack("<3f3B", rest))
    assert len(rows) == count == 256 and len(list((clip / "points").iterdir())) == 5  # every third pixel of 48 x 48
    x, y, z, *colour = rows[0]
    assert z == pytest.approx(depth[0, 1, 1], rel=1e-3)
    assert (x, y) == pytest.approx(((1.5 - 24) / 24 * z, (1.5 - 24) / 24 * z), rel=1e-3)
    frame = np.asarray(Image.open(clip / "frames" / "0000.png"))
    assert colour == frame[1, 1].tolist()


def test_a_batch_is_resumed_and_equal_to_single_clips(
    tiny_run: Path, picture: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[dict[str, Any]] = [
        {"image": str(picture), "prompt": "a red ball falls", "seed": 3},
        {"image": "near.png", "prompt": "a red ball falls", "seed": 4, "name": "other"},
    ]
    (tmp_path / "near.png").write_bytes(picture.read_bytes())
    batch = tmp_path / "prompts.jsonl"
    batch.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    words = ("--model", tiny_run / "model-finetune", "--batch", batch, "--fps", 8, "--points", 0, "--fov", 90)
    out = tmp_path / "out"
    assert generate(*words, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0001", "other"]
    assert "2 clips" in capsys.readouterr().out
    assert (out / "0001" / "clip.truth").read_bytes() == (clip / "clip.truth").read_bytes()
    assert (out / "0001" / "video.mp4").read_bytes() != (out / "other" / "video.mp4").read_bytes()
    (out / "other" / "clip.json").rename(tmp_path / "gone")  # what a kill leaves is hidden; the rest is not there
    for path in (out / "other").iterdir():
        path.unlink()
    (out / "other").rmdir()
    (out / ".other.partial").mkdir()
    (out / ".other.partial" / "video.mp4").write_text("begun")
    assert generate(*words, "--out", out) == 0
    assert "1 clips (video, depth and motion), 1 were there already" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["0001", "other"]
    batch.write_text(json.dumps(lines[0] | {"seed": 5}))
    assert generate(*words, "--out", out) == 2
    assert f"{out}/0001: holds a clip of another seed" in capsys.readouterr().err


def test_a_published_model_gives_video_alone(released: Path, picture: Path, tmp_path: Path) -> None:
    words = ("--image", picture, "--prompt", "a red ball", "--size", 64, "--frames", 5, "--steps", 2)
    assert generate("--model", released, *words, "--out", tmp_path / "clip") == 0
    assert sorted(path.name for path in (tmp_path / "clip").iterdir()) == ["clip.json", "video.mp4"]
    made = json.loads((tmp_path / "clip" / "clip.json").read_text())["generation"]
    assert (made["solver"], made["guidance"], made["shift"], made["steps"]) == ("unipc", 5.0, 5.0, 2)


@pytest.mark.parametrize("offload", ["parts", "blocks"])
def test_offload_changes_nothing(tuned: Path, picture: Path, tmp_path: Path, offload: str) -> None:
    words = ("--model", tuned, "--image", picture, "--prompt", "a red ball", "--steps", 2, "--points", 0)
    for kind in ("none", offload):
        assert generate(*words, "--offload", kind, "--device", "cpu", "--out", tmp_path / kind) == 0
    for name in ("video.mp4", "clip.truth"):
        assert (tmp_path / "none" / name).read_bytes() == (tmp_path / offload / name).read_bytes()


def test_a_lora_acts_on_the_video(tuned: Path, released: Path, picture: Path, tmp_path: Path) -> None:
    words = ("--image", picture, "--prompt", "a red ball", "--steps", 2, "--size", 64, "--frames", 5, "--guidance", 1)
    lora = tuned / "model-finetune" / "adapters" / "finetune"
    assert generate("--model", released, *words, "--out", tmp_path / "without") == 0
    assert generate("--model", released, *words, "--lora", lora, "--out", tmp_path / "with") == 0
    assert generate("--model", tuned / "model-finetune", *words, "--points", 0, "--out", tmp_path / "own") == 0
    video = {name: (tmp_path / name / "video.mp4").read_bytes() for name in ("without", "with", "own")}
    assert video["with"] == video["own"] != video["without"]
