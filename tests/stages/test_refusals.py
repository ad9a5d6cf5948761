"""A fault of a run file or of its data ends in one line and exit code 2, before anything starts."""

import importlib.machinery
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phys4d.engine.config import load_toml
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.distributed.parallel import Parallel
from phys4d.stages.preflight import check
from phys4d.stages.run_file import RunConfig

Refused = Callable[..., str]
WriteRun = Callable[..., Path]
ALL = ["backbone", "pretrain", "finetune", "reinforce"]
MOVING = [[[1.0, 0, 0, t], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]] for t in range(5)]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("finetune.bach=3", "--set finetune.bach=3: finetune.bach: unknown key, did you mean 'batch'?"),
        ("pretrain.batch=two", '--set pretrain.batch=two: pretrain.batch: expected an integer, got "two"'),
        ("precision=fp16", "--set precision=fp16: precision: expected 'fp32' or 'bf16', got \"fp16\""),
        ("model.width=40", "--set model.width=40: model.width: expected a multiple of 32, got 40"),
        ("model.taps=[0, 2]", "model.taps: [0, 2]: the transformer has blocks 0 to 1"),
        ("reinforce.data=away", "reinforce.data: away holds no index.parquet: simulate or label a dataset there first"),
        ("evaluate.data=away", "evaluate.data: away holds no index.parquet: simulate or label a dataset there first"),
        (
            "finetune.loop.profile={{start=2,steps=3}}",
            "--set finetune.loop.profile={{start=2,steps=3}}: finetune.loop: profile: steps 2 to 4 of 3: lower start, "
            'got {{"steps": 3, "log_every": 1, "profile": {{"start": 2, "ste...',
        ),
        ("evaluate.scenes=9", "evaluate.data: {data}: 8 clips, 9 are asked for: simulate more"),
    ],
)
def test_a_fault_of_the_run_file(refused: Refused, clips: Path, tmp_path: Path, change: str, line: str) -> None:
    assert refused(clips, change.format()) == line.format(data=clips)
    assert not (tmp_path / "out").exists()


def test_weights_and_biases_without_its_package(
    refused: Refused, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    line = 'log.wandb: wandb is not installed: pip install "phys4d[wandb]", or remove the key'
    assert refused(clips, 'log.wandb={project="p"}') == line
    assert not (tmp_path / "out").exists()


def test_deepspeed_without_its_package_and_with_moments_in_host_memory(
    refused: Refused, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, there = importlib.util.find_spec, [None]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there[0] if name == "deepspeed" else find(name))
    changes = 'parallel.strategy="deepspeed"', 'finetune.optimizer.offload=["moments"]'
    assert refused(clips, *changes) == (
        'parallel.strategy: "deepspeed" needs the package deepspeed, which is not installed: '
        'pip install "phys4d[deepspeed]", or set "fsdp"'
    )
    there[0] = importlib.machinery.ModuleSpec("deepspeed", None)
    ours = "expected torch's AdamW on the device"
    line = f'finetune.optimizer.offload: {ours} with parallel.strategy = "deepspeed": remove it'
    assert refused(clips, *changes) == line
    assert not (tmp_path / "out").exists()


def test_a_backend_of_attention_that_is_unknown_or_cannot_serve(
    refused: Refused, clips: Path, tmp_path: Path
) -> None:
    known = refused(clips, "model.attention=fastest")
    assert known.startswith("--set model.attention=fastest: model.attention: expected auto, triton, ")
    line = refused(clips, "model.attention=triton")
    what = "backend 'triton' cannot serve this call: its kernels run on CUDA, the tensors are on cpu"
    assert line == f'model.attention: {what}: set another, or "auto"'
    assert not (tmp_path / "out").exists()


def test_what_lies_where_a_model_is_to_be_written(refused: Refused, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    model = tmp_path / "out" / "model-pretrain"
    what = "is a link, or no model folder, and pretrain writes its model there: remove it"
    model.symlink_to(tmp_path / "scratch")
    assert refused(clips) == f"{model}: {what}"
    model.unlink()
    model.mkdir()
    assert refused(clips) == f"{model}: {what}"


def test_a_policy_that_draws_its_last_step(refused: Refused, clips: Path, tmp_path: Path) -> None:
    line = refused(clips, "reinforce.stochastic_steps=3")
    assert "reinforce: stochastic_steps must be below steps: the last step, to sigma 0, is deterministic" in line
    assert not (tmp_path / "out").exists()


def test_a_truncated_shard(refused: Refused, write_clips: WriteRun, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "data")
    member = ClipDataset(data).row(7)["members"]["mp4"]
    shard = data / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[: member["offset"] + 100])
    what = f"mp4 is truncated: 100 of {member['size']} bytes can be read"
    assert refused(data) == f"{shard}: clip clip7: {what}: see `phys4d data verify {data}`"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("clip", [0, 5])
def test_a_file_that_is_no_video(refused: Refused, write_clips: WriteRun, tmp_path: Path, clip: int) -> None:
    data = write_clips(tmp_path / "data", {clip: {"mp4": b"<html>404 Not Found</html>"}})
    what = "mp4 cannot be decoded: Invalid data found when processing input"
    line = f"{data}/shard-000000.tar: clip clip{clip}: {what}: see `phys4d data verify {data}`"
    assert refused(data) == line
    assert not (tmp_path / "out").exists()


def test_frames_that_the_codec_would_drop(
    refused: Refused, write_clips: WriteRun, released: Path, tmp_path: Path
) -> None:
    data = write_clips(tmp_path / "data", crop=dict.fromkeys(range(8), (4, 16)))
    takes = "clips of 4 frames: this codec takes 1 + k * 4, such as 1 or 5, and would drop the rest"
    assert refused(data) == f"backbone.data: {data}: {takes}"
    wan = shutil.copytree(released, tmp_path / "wan")
    assert refused(data, "model.kind=wan", stages=["pretrain"], init=wan) == f"pretrain.data: {data}: {takes}"
    shutil.rmtree(wan / "vae")
    expected = "no vae: expected the diffusers layout of Wan2.2-TI2V-5B"
    assert refused(data, "model.kind=wan", stages=["pretrain"], init=wan) == f"{wan}: {expected}"
    assert not (tmp_path / "out").exists()


def test_pixels_that_do_not_fill_tokens(refused: Refused, write_clips: WriteRun, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "data", crop=dict.fromkeys(range(8), (5, 12)))
    assert refused(data) == f"backbone.data: {data}: clips of 12x16 pixels: sides must be multiples of 8 and 8"


def test_clips_that_the_model_is_not_evaluated_on(refused: Refused, write_clips: WriteRun, tmp_path: Path) -> None:
    """Stages may mix sizes; an evaluation is of the largest that the first stage trains on."""
    data = write_clips(tmp_path / "data", crop={6: (5, 8)})
    sizes = "clips of 5 frames of 8x16 pixels, the run takes 5 frames of 16x16 pixels"
    assert refused(data) == f"evaluate.data: {data}: {sizes}: simulate at that size"
    other = write_clips(tmp_path / "other", crop=dict.fromkeys(range(8), (5, 8)))
    assert refused(data, f"evaluate.data={other}") == f"evaluate.data: {other}: {sizes}: simulate at that size"
    assert not (tmp_path / "out").exists()


def test_clips_without_the_labels_a_stage_needs(refused: Refused, write_clips: WriteRun, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "data", {0: {"json": b'{"caption": "a square"}'}})
    assert refused(data) == f"backbone.data: {data}: clip clip0: json has no intrinsics"


def test_a_reward_of_what_changed_under_a_moving_camera(
    refused: Refused, write_clips: WriteRun, write_run: WriteRun, clips: Path, tmp_path: Path
) -> None:
    meta = ClipDataset(clips)[0].meta
    poses = [[[1, 0, 0, 0.1 * t], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]] for t in range(5)]
    data = write_clips(tmp_path / "data", {0: {"json": json.dumps(meta | {"camera_to_world": poses}).encode()}})
    line = "its camera moves, and the reward is of what changed since the first frame: simulate with a static camera"
    assert refused(clips, f"reinforce.data={data}") == f"reinforce.data: {data}: clip clip0: {line}"
    text = json.dumps(meta | {"camera_to_world": poses[:1] * 5})
    still = write_clips(tmp_path / "still", {0: {"json": text.encode()}})
    run = load_toml(write_run(tmp_path / "still.toml", tmp_path / "out", still, ALL), RunConfig)
    check(run)


def test_a_batch_that_ranks_cannot_share(
    refused: Refused, clips: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = Parallel.start()
    monkeypatch.setattr(Parallel, "start", lambda: Parallel(0, 3, alone.device))
    line = "backbone.batch: 2 does not divide over 3 processes: choose a multiple of 3, or fewer processes"
    assert refused(clips) == line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("meta", "line"),
    [
        ({"caption": "a square"}, "json has no intrinsics"),
        ({"caption": "a " * 33}, "caption of 33 words: this encoder takes 32: {caption!r}: shorten it"),
        ({"caption": "a", "camera_to_world": MOVING}, "its camera moves, and the reward is of what changed since the "
         "first frame: simulate with a static camera"),
    ],
)  # fmt: skip
def test_the_json_of_every_clip_is_looked_at(
    refused: Refused, write_clips: WriteRun, tmp_path: Path, meta: dict[str, Any], line: str
) -> None:
    if "intrinsics" not in line:
        meta = {"intrinsics": [[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]] * 5, **meta}
    data = write_clips(tmp_path / "data", {5: {"json": json.dumps(meta).encode()}})
    key = "reinforce" if "camera" in line else "backbone"
    assert refused(data) == f"{key}.data: {data}: clip clip5: " + line.format(caption=meta["caption"])
    assert not (tmp_path / "out").exists()
