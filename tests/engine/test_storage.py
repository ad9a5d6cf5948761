"""Full and read-only disks: their message is found in any library's error, and no file is half written."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from phys4d.cli import main
from phys4d.engine import checkpoint
from phys4d.engine.errors import UserError
from phys4d.engine.storage import AppendOnlyFile, disk_fault


def full(filename: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([filename] if filename else []))


def test_the_disks_fault_is_found_under_others() -> None:
    assert disk_fault(full()) == "No space left on device"
    assert disk_fault(PermissionError(errno.EACCES, "Permission denied", "/a/b")) == "/a/b: Permission denied"
    hidden = RuntimeError("unexpected pos")
    hidden.__context__ = full()
    gathered = CheckpointException("ranks", {1: (hidden, None)})  # type: ignore[dict-item]
    outer = ValueError("cannot save")
    outer.__cause__ = gathered
    assert disk_fault(outer) == "No space left on device"


def test_other_faults_are_not_the_disks() -> None:
    circle = ValueError("a")
    circle.__context__ = RuntimeError("b")
    circle.__context__.__context__ = circle
    assert disk_fault(circle) is None and disk_fault(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


def test_appended_bytes_are_all_there_or_the_disk_is_blamed(
    tmp_path: Path, in_child: Callable[[Callable[[], None]], int]
) -> None:
    """A file size limit in the middle of the second line: the kernel writes a part of it without an error."""

    def grow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (15, 15))
        file = AppendOnlyFile(tmp_path / "lines")
        file.write(b"0123456789")
        with pytest.raises(OSError, match="File too large"):
            file.write(b"0123456789")
        file.close()

    assert in_child(grow) == 0
    assert (tmp_path / "lines").read_bytes() == b"012345678901234"


@pytest.mark.parametrize(
    ("writes", "keep", "needed", "fits"), [(1, 2, 1, None), (2, 2, 2, 1), (9, 2, 2, 1), (9, 4, 4, 3), (0, 2, 0, None)]
)
def test_room_is_asked_for_what_will_be_on_the_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, keep: int, needed: int, fits: int | None
) -> None:
    """One checkpoint is there; while one is written, one more than is kept. A checkpoint takes 4 MiB. fits: the `keep`
    that the message advises, where one is small enough."""
    state = {"x": torch.zeros(1 << 20)}
    checkpoint.save(tmp_path, "a", 1, state)
    free = [needed << 22]
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free[0]}))
    checkpoint.check_room(tmp_path, "a", state, writes=writes, keep=keep)
    free[0] -= 1
    if needed:
        advice = f"make room or set a.loop.keep to {fits}, then" if fits else "make room, then"
        message = rf"no space left for the checkpoints of a: they take {4 * needed}\.0 MiB, .*: {advice} --resume"
        with pytest.raises(UserError, match=message):
            checkpoint.check_room(tmp_path, "a", state, writes=writes, keep=keep)


def test_a_disk_that_no_one_expected_is_a_line_and_exit_code_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phys4d.doctor.collect", lambda: (_ for _ in ()).throw(full(f"{tmp_path}/x")))
    assert main(["doctor"]) == 2
    line = f"phys4d: error: {tmp_path}/x: No space left on device: make room, or choose a place that you may write\n"
    assert capsys.readouterr().err == line
    worn = OSError(errno.EIO, os.strerror(errno.EIO), f"{tmp_path}/x")
    monkeypatch.setattr("phys4d.doctor.collect", lambda: (_ for _ in ()).throw(worn))
    assert main(["doctor"]) == 2
    advice = "check the disk or its connection (dmesg), then run the same command again"
    assert capsys.readouterr().err == f"phys4d: error: {tmp_path}/x: Input/output error: {advice}\n"
    monkeypatch.setattr("phys4d.doctor.collect", lambda: (_ for _ in ()).throw(FileNotFoundError(2, "gone", "x")))
    with pytest.raises(FileNotFoundError):
        main(["doctor"])
