"""What is wrong with a run is one line and exit code 2, before anything starts wherever it can be known there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from phys4d.cli import main
from phys4d.engine.config import load_toml
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.parallel import Parallel
from phys4d.engine.telemetry import Run
from phys4d.stages.preflight import check
from phys4d.stages.run_file import RunConfig

Refused = Callable[..., str]
WriteRun = Callable[..., Path]
ALL = ["backbone", "pretrain", "finetune", "reinforce"]
MOVING = [[[1.0, 0, 0, t], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]] for t in range(5)]
ADAPTER = "adapters/finetune/pytorch_lora_weights.safetensors"


@pytest.fixture
def refused(write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The line that `phys4d train` ends with, without what every such line begins with; nothing else was printed."""

    def start(
        data: Path, *changes: str, stages: list[str] = ALL, init: Path | None = None, words: tuple[str, ...] = ()
    ) -> str:
        run = write_run(tmp_path / "run.toml", tmp_path / "out", data, stages, init)
        capsys.readouterr()
        assert main(["train", str(run), *words, *(word for change in changes for word in ("--set", change))]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.endswith("\n") and captured.err.count("\n") == 1
        assert captured.err.startswith("phys4d: error: ")
        return captured.err.removeprefix("phys4d: error: ").rstrip("\n")

    return start


@pytest.fixture(scope="module")
def finished(write_run: WriteRun, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run through all stages but the last, without evaluation."""
    folder = tmp_path_factory.mktemp("refusals") / "finished"
    run = write_run(folder.with_suffix(".toml"), folder, clips, ALL[:3])
    assert main(["train", str(run), "--set", "backbone.loop={steps=2, checkpoint_every=1}"]) == 0
    return folder


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
        ("evaluate.scenes=9", "evaluate.data: {data}: 8 clips, 9 are asked for: simulate more"),
    ],
)
def test_a_fault_of_the_run_file(refused: Refused, clips: Path, tmp_path: Path, change: str, line: str) -> None:
    assert refused(clips, change) == line.format(data=clips)
    assert not (tmp_path / "out").exists()


def test_a_backend_of_attention_that_is_unknown_or_cannot_serve(refused: Refused, clips: Path) -> None:
    known = refused(clips, "model.attention=fastest")
    assert known.startswith("--set model.attention=fastest: model.attention: expected auto, triton, ")
    line = refused(clips, "model.attention=triton")
    what = "backend 'triton' cannot serve this call: its kernels run on CUDA, the tensors are on cpu"
    assert line == f'model.attention: {what}: set another, or "auto"'


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
    assert refused(data, stages=["pretrain"], init=wan) == f"{wan}: {expected}"
    assert not (tmp_path / "out").exists()


def test_pixels_that_do_not_fill_tokens(refused: Refused, write_clips: WriteRun, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "data", crop=dict.fromkeys(range(8), (5, 12)))
    assert refused(data) == f"backbone.data: {data}: clips of 12x16 pixels: sides must be multiples of 8 and 8"


def test_clips_of_mixed_size(refused: Refused, write_clips: WriteRun, clips: Path, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "data", crop={6: (5, 8)})
    sizes = "(5, 8, 16) frames, height, width beside clips of (5, 16, 16)"
    assert refused(data) == f"{data}: clip clip6: {sizes}: a dataset holds clips of one size"
    other = write_clips(tmp_path / "other", crop=dict.fromkeys(range(8), (5, 8)))
    sizes = "clips of 5 frames of 8x16 pixels, the run takes 5 frames of 16x16 pixels"
    assert refused(clips, f"finetune.data={other}") == f"finetune.data: {other}: {sizes}: simulate at that size"
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
    monkeypatch.setattr(Parallel, "start", lambda: Parallel(0, 3, alone.device, None))
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


def test_two_ranks_refuse_with_one_line(
    session: Callable[..., dict[str, Any]], write_run: WriteRun, clips: Path, finished: Path, tmp_path: Path
) -> None:
    """What both ranks see is printed by the first; what only rank 0 can see ends the other too."""
    run = write_run(tmp_path / "run.toml", finished, clips, ALL[:3])
    for words, line in (
        (["--set", "finetune.bach=3"], "--set finetune.bach=3: finetune.bach: unknown key, did you mean 'batch'?"),
        ([], f"{finished}: holds a run already: --resume goes on with it, or choose a new folder"),
    ):
        ended = session("train", run, *words, ranks=2)
        assert ended["codes"] == [2, 2]
        assert [text.splitlines()[-1:] for text in ended["errors"]] == [[f"phys4d: error: {line}"], []]


def test_a_checkpoint_of_another_model_stage_or_lora_rank(
    refused: Refused, finished: Path, clips: Path, tmp_path: Path
) -> None:
    """Such a checkpoint in the place of one's own is refused before the first step, and nothing is overwritten."""
    run, again = tmp_path / "out", ("--resume",)
    two = "backbone.loop={steps=2, checkpoint_every=1}"

    def placed(name: str, source: Path) -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished, run, ignore=shutil.ignore_patterns("model-*", "checkpoint-*"))
        text = (run / "config.toml").read_text().replace(str(finished), str(run))
        (run / "config.toml").write_text(text)
        shutil.copytree(source, run / name)

    placed("checkpoint-backbone-2", finished / "checkpoint-pretrain-3")
    there = run / "checkpoint-backbone-2"
    line = "was written as checkpoint-pretrain-3: it is of another stage or step: remove it"
    assert refused(clips, two, stages=ALL[:3], words=again) == f"{there}: {line}"

    placed("checkpoint-backbone-2", finished / "checkpoint-backbone-2")
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("width = 32", "width = 64"))
    line = refused(clips, two, "model.width=64", stages=ALL[:3], words=again)
    assert line.startswith(f"{there}: does not fit: 'ema.transformer.") and line.endswith(": is it this run's?")
    assert ", this run needs [64" in line

    placed("checkpoint-finetune-3", finished / "checkpoint-finetune-3")
    for stage in ALL[:2]:
        shutil.copytree(finished / f"model-{stage}", run / f"model-{stage}")
    (run / "config.toml").write_text((run / "config.toml").read_text().replace("rank = 2", "rank = 4", 1))
    metrics = (run / "metrics.jsonl").read_bytes()
    line = refused(clips, two, "finetune.rank=4", stages=ALL[:3], words=again)
    there = run / "checkpoint-finetune-3"
    assert line.startswith(f"{there}: does not fit: 'model.transformer.") and "lora_" in line
    assert line.endswith("is [2, 32], this run needs [4, 32]: is it this run's?")
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_a_lora_of_another_rank(refused: Refused, finished: Path, clips: Path, tmp_path: Path) -> None:
    """A configured one is another configuration; in a model's file, one that does not fit names file and key."""
    model = tmp_path / "models" / "model-finetune"
    for stage in ("backbone", "finetune"):
        shutil.copytree(finished / f"model-{stage}", tmp_path / "models" / f"model-{stage}")
    weights = load_file(model / ADAPTER)
    key = next(name for name in weights if "lora_B" in name)
    save_file(weights | {key: weights[key].repeat(1, 2)}, model / ADAPTER)
    line = refused(clips, stages=["reinforce"], init=model)
    what = f"{model / ADAPTER}: does not fit: {key} is [32, 4], this transformer takes [32, 2]"
    assert line == f"{model}: weights do not load ({what}): delete it and resume its run"


def test_what_a_resumed_run_may_not_change(
    refused: Refused, finished: Path, write_clips: WriteRun, clips: Path, tmp_path: Path
) -> None:
    """What its weights depend on, what finished stages would ignore, and what its paths hold."""
    out, two = tmp_path / "out", "backbone.loop={steps=2, checkpoint_every=1}"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "model-finetune")  # as if it had been killed there

    def line(*changes: str) -> str:
        return refused(clips, two, *changes, stages=ALL[:3], words=("--resume",))

    started = f"{out}/config.toml: the run was started with another configuration: "
    end = ": resume with the old one or start a new folder"
    for change, shown in {
        "seed=1": "seed: 0 -> 1", "finetune.rank=4": "finetune.rank: 2 -> 4", "model.width=64": "model.width: 32 -> 64",
        "finetune.batch=2": "finetune.batch: 4 -> 2", "finetune.weights.warp=0.0": "finetune.weights.warp: 0.5 -> 0.0",
    }.items():  # fmt: skip
        assert line(change) == f"{started}{shown}{end}"
    rate = "backbone.optimizer.learning_rate: 0.001 -> 0.1"
    ignored = f"{rate}: this stage is finished: set it back or start a new folder"
    assert line("backbone.optimizer.learning_rate=0.1") == f"{out}/config.toml: {ignored}"
    other = write_clips(tmp_path / "other", {0: {"json": json.dumps(ClipDataset(clips)[1].meta).encode()}})
    what = f"does not hold what it held at the start of the run ({out}/config.toml)"
    moved = f"finetune.data: {other}: {what}: give the same files or start a new folder"
    assert line(f"finetune.data={other}") == moved
    assert not (out / "model-finetune").exists()


def test_what_a_resumed_run_may_change(
    write_run: WriteRun, finished: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run and data lie elsewhere, a stage goes on at another rate and in bf16, longer, and is measured from now on."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "model-finetune")
    shutil.copytree(clips, elsewhere)
    run = write_run(tmp_path / "run.toml", out, elsewhere, ALL[:3])
    changes = [
        "backbone.loop={steps=2, checkpoint_every=1}", "finetune.loop.steps=4", "finetune.optimizer.learning_rate=1e-4",
        "finetune.heads_lr_scale=1.0", "precision=bf16", "evaluate.samples=1", "pretrain.loop.keep=1",
    ]  # fmt: skip
    assert main(["train", str(run), "--resume", *(word for change in changes for word in ("--set", change))]) == 0
    shown = [text for text in capsys.readouterr().err.splitlines() if text.startswith("resumes with ")]
    keys = {
        "folder", "backbone.data", "pretrain.data", "finetune.data", "reinforce.data", "evaluate.data", "precision",
        "finetune.loop.steps", "finetune.optimizer.learning_rate", "finetune.heads_lr_scale", "evaluate.samples",
        "pretrain.loop.keep",
    }  # fmt: skip
    assert {text.removeprefix("resumes with ").split(": ")[0] for text in shown} == keys and len(shown) == len(keys)
    (session,) = json.loads((out / "provenance.json").read_text())["resumed"]
    assert {change["key"] for change in session["changed"]} == keys
    assert (out / "checkpoint-finetune-4").is_dir() and (out / "model-finetune").is_dir()
    assert load_toml(out / "config.toml", RunConfig).finetune.optimizer.learning_rate == 1e-4
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["learning_rate"] == 1e-4


def test_a_folder_that_holds_a_run(refused: Refused, write_run: WriteRun, clips: Path, tmp_path: Path) -> None:
    """Started again without --resume; resumed with another setting; and while another process has it."""
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ALL[:1])
    assert main(["train", str(run)]) == 0
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    out = tmp_path / "out"
    line = f"{out}: holds a run already: --resume goes on with it, or choose a new folder"
    assert refused(clips, stages=ALL[:1]) == line
    line = f"{out}/config.toml: the run was started with another configuration: finetune.rank: 2 -> 4: resume with the"
    again = ("--resume",)
    assert refused(clips, "finetune.rank=4", stages=ALL[:1], words=again) == f"{line} old one or start a new folder"
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
    with Run.create(out, load_toml(run, RunConfig), resume=True):
        line = f"{out}: another process is using this folder: wait or choose another"
        assert refused(clips, stages=ALL[:1], words=again) == line
    assert main(["train", str(run), "--resume"]) == 0
