"""A disk that fills up or is not ours to write, a clip that turns out bad under way: one line, and nothing is lost."""

import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phys4d.cli import main
from phys4d.engine import checkpoint
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.sampler import Course, Order
from phys4d.engine.errors import UserError
from phys4d.models import folder as model_folder
from phys4d.models.config import ModelConfig
from phys4d.models.world import create_model
from phys4d.stages.backbone import BackboneObjective
from phys4d.stages.dataset_checks import WHOLE
from tests.stages.instants import wait_for_saves

WriteRun = Callable[..., Path]
LOOP = ("--set", "backbone.loop={steps=6, log_every=1, checkpoint_every=2, save_in_background=false}")
BEHIND = [  # training waits for a checkpoint, or goes on while it is written
    pytest.param([], id="at once"),
    pytest.param(["--set", "backbone.loop.save_in_background=true"], id="in background", marks=pytest.mark.slow),
]
MOUNT = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]  # gone with the process
mounts = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(MOUNT, capture_output=True).returncode != 0,
    reason="this process may not mount a file system; the tests that limit the size of files cover the same path",
)
WEIGHTS = "model-backbone/transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(write_run: WriteRun, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the first stage to which nothing happened."""
    folder = tmp_path_factory.mktemp("disk") / "whole"
    assert main(["train", str(write_run(folder.with_suffix(".toml"), folder, clips, ["backbone"])), *LOOP]) == 0
    return folder


@pytest.fixture
def backbone_run(write_run: WriteRun, clips: Path, tmp_path: Path) -> Callable[[Path], Path]:
    """Writes the run file of the first stage alone; the run goes to the folder that it is given."""
    return lambda folder: write_run(tmp_path / "run.toml", folder, clips, ["backbone"])


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB."""
    mounted: list[Path] = []

    def mount(kib: int) -> Path:
        place = tmp_path / "small"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place], check=True)
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    *before, line = capsys.readouterr().err.splitlines()
    assert all(each.startswith("backbone: ") for each in before)  # the progress of what had begun
    return line


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    update = BackboneObjective.update

    def changed(self: BackboneObjective, now: int, optimizer_step: Any) -> Any:
        if now == step:
            action()
        return update(self, now, optimizer_step)

    monkeypatch.setattr(BackboneObjective, "update", changed)


def assert_resumes(run: Path, folder: Path, whole: Path) -> None:
    assert main(["train", str(run), *LOOP, "--resume"]) == 0
    ours, theirs = load_file(folder / WEIGHTS), load_file(whole / WEIGHTS)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[json.loads(line)["loss"] for line in (f / "metrics.jsonl").read_text().splitlines()]
              for f in (folder, whole)]  # fmt: skip
    assert losses[0] == losses[1]


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Lets this process write no file beyond so many bytes: for the writer, what a full disk is, and for any user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_the_disk_does_not_take_leaves_the_one_before(
    backbone_run: Callable[[Path], Path],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    limit_files: Callable[[int], None],
) -> None:
    folder = tmp_path / "run"
    run = backbone_run(folder)
    before_step(monkeypatch, 3, lambda: limit_files(100_000))
    assert main(["train", str(run), *LOOP]) == 2
    limit_files(resource.RLIM_INFINITY)
    monkeypatch.undo()
    reason = "cannot be written: File too large: earlier checkpoints are whole: make room, then --resume"
    assert last_line(capsys) == f"phys4d: error: {folder}/checkpoint-backbone-4: {reason}"
    assert checkpoint.latest(folder, "backbone") == (folder / "checkpoint-backbone-2", 2)
    assert not list(folder.glob(".checkpoint-*"))
    assert_resumes(run, folder, whole)


@pytest.mark.parametrize("behind", BEHIND)
@mounts
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(
    behind: list[str],
    backbone_run: Callable[[Path], Path],
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmpfs: Callable[[int], Path],
) -> None:
    disk = tmpfs(32 << 10)
    run = backbone_run(disk / "run")
    filler = disk / "filler"

    def fill() -> None:
        wait_for_saves()
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - (64 << 10)))

    before_step(monkeypatch, 3, fill)
    assert main(["train", str(run), *LOOP, *behind]) == 2
    monkeypatch.undo()
    reason = "cannot be written: No space left on device: earlier checkpoints are whole: make room, then --resume"
    assert last_line(capsys) == f"phys4d: error: {disk}/run/checkpoint-backbone-4: {reason}"
    assert checkpoint.latest(disk / "run", "backbone") == (disk / "run/checkpoint-backbone-2", 2)
    filler.unlink()
    assert_resumes(run, disk / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("behind", BEHIND)
@mounts
def test_a_disk_that_fills_up_under_two_ranks_ends_both(
    behind: list[str],
    session: Callable[..., dict[str, Any]],
    backbone_run: Callable[[Path], Path],
    tmpfs: Callable[[int], Path],
) -> None:
    """torch passes the errors of single ranks around without their causes: the disk itself is asked."""
    disk = tmpfs(32 << 10)
    run = backbone_run(disk / "run")
    fill = {"file": str(disk / "filler"), "leave": 64 << 10, "step": 3}
    ended = session("train", run, *LOOP, *behind, ranks=2, fill=fill)
    assert ended["codes"] == [2, 2], ended["errors"]
    reason = "cannot be written: No space left on device: earlier checkpoints are whole: make room, then --resume"
    assert not any("Traceback" in text for text in ended["errors"])
    (line,) = [line for text in ended["errors"] for line in text.splitlines() if line.startswith("phys4d: ")]
    assert line == f"phys4d: error: {disk}/run/checkpoint-backbone-4: {reason}"
    assert checkpoint.latest(disk / "run", "backbone") == (disk / "run/checkpoint-backbone-2", 2)
    assert not list((disk / "run").glob(".checkpoint-*"))
    (disk / "filler").unlink()
    assert session("train", run, *LOOP, "--resume", ranks=2)["codes"] == [0, 0]


@mounts
def test_a_disk_too_small_for_the_checkpoints_is_known_before_the_first_step(
    backbone_run: Callable[[Path], Path],
    capsys: pytest.CaptureFixture[str],
    tmpfs: Callable[[int], Path],
) -> None:
    disk = tmpfs(1 << 10)
    run = backbone_run(disk / "run")
    assert main(["train", str(run), *LOOP]) == 2
    captured = capsys.readouterr().err
    cache, decoder, *lines = captured.splitlines()
    assert cache.startswith("backbone: every step encodes its clips") and decoder.startswith("backbone: decoder: ")
    assert len(lines) == 1  # not even the progress of a first step
    assert lines[0].startswith(f"phys4d: error: {disk}/run: no space left for the checkpoints of backbone: they take ")
    assert lines[0].endswith(" MiB are free: make room, then --resume")
    assert not (disk / "run/metrics.jsonl").read_text()


def test_a_model_that_the_disk_does_not_take_leaves_the_one_before(
    tmp_path: Path, limit_files: Callable[[int], None]
) -> None:
    model = create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=0)
    model_folder.save(model, tmp_path / "model", stage="backbone", base=None)
    limit_files(10_000)
    with pytest.raises(UserError, match=r"/model: cannot be written: .*File too large.*: make room, then --resume"):
        model_folder.save(model, tmp_path / "model", stage="backbone", base=None)
    limit_files(resource.RLIM_INFINITY)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert model_folder.load(tmp_path / "model").stage == "backbone"


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that everyone may read and no one but root may write, in one that everyone may enter."""
    place = Path(tempfile.mkdtemp(prefix="phys4d-test-"))
    place.chmod(0o755)
    (place / "closed").mkdir()
    (place / "closed").chmod(0o555)
    yield place / "closed"
    (place / "closed").chmod(0o755)
    shutil.rmtree(place)


@contextmanager
def without_privileges() -> Iterator[None]:
    """As the user nobody where the tests run as root, who may write anywhere; as oneself elsewhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_may_not_be_written(
    write_run: WriteRun, write_clips: WriteRun, closed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not to be made there; and not to be looked into, where the run would lie."""
    data = write_clips(closed.parent / "data")
    run = write_run(closed.parent / "run.toml", closed / "run", data, ["backbone"])
    with without_privileges():
        assert main(["train", str(run)]) == 2
    folder = closed / "run"
    line = f"phys4d: error: {folder}: cannot write the run folder: {folder}: Permission denied\n"
    assert capsys.readouterr().err == line
    closed.chmod(0o000)
    with without_privileges():
        assert main(["train", str(run)]) == 2
    line = f"phys4d: error: {folder}: cannot write the run folder: {folder}/config.toml: Permission denied\n"
    assert capsys.readouterr().err == line


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_clip_that_turns_out_bad_costs_no_finished_step(
    session: Callable[..., dict[str, Any]],
    write_run: WriteRun,
    write_clips: WriteRun,
    tmp_path: Path,
    ranks: int,
) -> None:
    """Its first bytes are those of a video, and it is not among the clips that are decoded before the run. On two
    ranks, both end, and the one that read it says so."""
    count = 2 * WHOLE
    bad = Course(Order(0, [0] * count)).batch(3, 2)[1]  # the second clip of the fourth step's batch
    sound = write_clips(tmp_path / "sound", count=count)
    member = ClipDataset(sound).row(bad)["members"]["mp4"]
    good = (sound / "shard-000000.tar").read_bytes()[member["offset"] :][: member["size"]]
    data = write_clips(tmp_path / "data", {bad: {"mp4": good[:100] + bytes(len(good) - 100)}}, count=count)
    folder = tmp_path / "run"
    run = write_run(tmp_path / "run.toml", folder, data, ["backbone"])
    ended = session("train", run, *LOOP, ranks=ranks)
    assert ended["codes"] == [2] * ranks
    (line,) = [line for text in ended["errors"] for line in text.splitlines() if line.startswith("phys4d: ")]
    assert line.startswith(f"phys4d: error: {data}/shard-000000.tar: clip clip{bad}: mp4 ")
    assert line in ended["errors"][ranks - 1] and not any("Traceback" in text for text in ended["errors"])
    assert checkpoint.latest(folder, "backbone") == (folder / "checkpoint-backbone-3", 3)
    if ranks == 1:
        whole = tmp_path / "whole"
        assert main(["train", str(write_run(tmp_path / "whole.toml", whole, sound, ["backbone"])), *LOOP]) == 0
        shutil.rmtree(data)
        shutil.move(sound, data)
        assert_resumes(run, folder, whole)
