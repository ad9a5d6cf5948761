"""Checkpoints that are written while training goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phys4d.engine import background_save, checkpoint
from phys4d.engine.background_save import BackgroundSave
from phys4d.engine.errors import UserError


def state(value: float) -> dict[str, torch.Tensor]:
    return {"model.w": torch.full((3,), value), "updates": torch.tensor(int(value))}


@pytest.fixture
def saves(tmp_path: Path) -> BackgroundSave:
    return BackgroundSave(tmp_path, "a", keep=2, keep_every=3, group=None)


def test_it_writes_what_there_was_when_it_began(saves: BackgroundSave, tmp_path: Path) -> None:
    """The state changes while the thread writes; what a synchronous save gives is the same bytes."""
    done, changing = [], state(7)
    path = saves.start(7, changing, lambda: done.append(7))
    for tensor in changing.values():
        tensor.fill_(0)
    assert done == []
    saves.finish()
    saves.finish()
    assert done == [7] and checkpoint.latest(tmp_path, "a") == (path, 7)
    found = state(1)
    checkpoint.load(path, found)
    assert all(torch.equal(found[name], state(7)[name]) for name in found)


def test_those_of_every_so_many_steps_remain(saves: BackgroundSave, tmp_path: Path) -> None:
    for step in range(1, 9):
        saves.start(step, state(step), lambda: None)
    saves.finish()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-a-{k}" for k in (3, 6, 7, 8)]


def test_a_full_disk_shows_at_once_and_is_raised_when_it_is_waited_for(
    saves: BackgroundSave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves.start(1, state(1), lambda: None)
    saves.finish()
    save: Callable[..., Any] = checkpoint.dcp.save

    def full(*arguments: Any, **options: Any) -> None:
        save(*arguments, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.dcp, "save", full)
    saves.start(2, state(2), lambda: pytest.fail("it is not complete"))
    thread = saves._thread
    assert thread is not None
    thread.join()
    assert saves.failed
    with pytest.raises(UserError, match="checkpoint-a-2: cannot be written: No space left on device"):
        saves.start(3, state(3), lambda: None)
    assert not saves.failed and checkpoint.latest(tmp_path, "a") == (tmp_path / "checkpoint-a-1", 1)
    assert shutil.disk_usage(tmp_path).free and not list(tmp_path.glob(".checkpoint-*"))
    assert background_save.checkpoint is checkpoint
