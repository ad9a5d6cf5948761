"""Checkpoints: exact, complete or absent at every instant, and refused if they do not fit."""

import os
import pickle
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from phys4d.engine import checkpoint, integrity
from phys4d.engine.errors import Stopped, UserError


def state(value: float) -> dict[str, Tensor]:
    return {
        "model.a.w": torch.full((3, 4), value),
        "model.a.b": torch.tensor(value),
        "updates": torch.tensor(int(value)),
    }


def loaded(path: Path) -> dict[str, Tensor]:
    tensors = state(0)
    checkpoint.load(path, tensors)
    return tensors


def test_what_is_saved_is_loaded_into_the_same_memory(tmp_path: Path) -> None:
    saved = {"x": torch.randn(5, 3), "y": torch.randn(7).to(torch.bfloat16), "z": torch.arange(4)}
    path = checkpoint.save(tmp_path, "finetune", 12, saved)
    assert (
        path == tmp_path / "checkpoint-finetune-12" and (tmp_path / "latest").read_text() == f"{path.name}\n"
    )
    target = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
    places = {name: tensor.data_ptr() for name, tensor in target.items()}
    checkpoint.load(path, target)
    for name, tensor in saved.items():
        assert torch.equal(target[name], tensor) and target[name].data_ptr() == places[name]


def test_latest_is_by_stage_and_step_and_old_ones_go(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path, "a") is None and checkpoint.latest(tmp_path / "none", "a") is None
    for step in (2, 10, 9):
        checkpoint.save(tmp_path, "a", step, state(step), keep=2)
    checkpoint.save(tmp_path, "a-b", 99, state(99), keep=2)
    assert checkpoint.latest(tmp_path, "a") == (tmp_path / "checkpoint-a-10", 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-a-10", "checkpoint-a-9", "checkpoint-a-b-99", "latest",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [".metadata", "checkpoint.json", "manifest.json"])
def test_an_incomplete_one_is_passed_over_and_can_be_written_again(tmp_path: Path, name: str) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, "a", step, state(step))
    (tmp_path / "checkpoint-a-2" / name).unlink()
    assert checkpoint.latest(tmp_path, "a") == (tmp_path / "checkpoint-a-1", 1)
    assert loaded(checkpoint.save(tmp_path, "a", 2, state(2)))["updates"] == 2


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(
    tmp_path: Path, in_child: Callable[[Callable[[], None]], int]
) -> None:
    """A child process is killed at its n-th call that changes the disk permanently, for every n."""
    survived, moments = False, 0
    while not survived:
        folder = tmp_path / f"{moments}"
        checkpoint.save(folder, "a", 1, state(1), keep=1)
        ended = in_child(partial(save_and_die_at, folder, moments))
        assert ended in (0, -signal.SIGKILL)
        survived = ended == 0
        found = checkpoint.latest(folder, "a")
        assert found is not None
        path, step = found
        assert torch.equal(loaded(path)["model.a.w"], torch.full((3, 4), float(step)))
        assert step == 2 if survived else step in (1, 2)
        assert loaded(checkpoint.save(folder, "a", 3, state(3), keep=1))["updates"] == 3
        assert not list(folder.glob(".checkpoint-*"))
        moments += 1
    assert moments > 6


def save_and_die_at(folder: Path, moment: int) -> None:
    """Saves step 2, but SIGKILLs this process at its call number `moment` that changes the disk."""
    calls = [0]

    def deadly(real):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            if calls[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            calls[0] += 1
            return real(*arguments, **options)

        return call

    for name in ("fsync", "rename", "replace", "mkdir", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))
    checkpoint.save(folder, "a", 2, state(2), keep=1)


def test_another_model_is_refused_before_anything_changes(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, "a", 5, state(5))
    faults = [
        (
            {"model.a.w": torch.zeros(3, 8)},
            r"'model\.a\.w' is \[3, 4\], this run needs \[3, 8\]: is it this run's\?",
        ),
        ({"model.c": torch.zeros(1)}, r"does not fit: this run has 'model\.c', the checkpoint has not"),
    ]
    for changed, message in faults:
        tensors = state(0) | changed
        with pytest.raises(UserError, match=message):
            checkpoint.load(path, tensors)
        assert tensors["updates"] == 0
    with pytest.raises(UserError, match=r"the checkpoint has 'model\.a\.b', this run has not"):
        checkpoint.load(path, {"model.a.w": torch.zeros(3, 4), "updates": torch.tensor(0)})


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "checkpoint.json"])
def test_one_flipped_bit_anywhere_is_found_and_the_checkpoint_before_is_offered(tmp_path: Path, name: str) -> None:
    for step in (4, 5):
        path = checkpoint.save(tmp_path, "a", step, state(step))
    whole = (path / name).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        (path / name).write_bytes(flipped)
        tensors = state(0)
        with pytest.raises(UserError) as found:
            checkpoint.load(path, tensors)
        assert f"{found.value}" == (
            f"{path / name}: is damaged, its SHA-256 is not that in manifest.json: copy it again, or "
            "--resume=previous, which removes it and goes on from checkpoint-a-4"
        )
        assert tensors["updates"] == 0 and not tensors["model.a.w"].any()
    checkpoint.drop_latest(tmp_path, "a")
    assert checkpoint.latest(tmp_path, "a") == (tmp_path / "checkpoint-a-4", 4)
    assert loaded(tmp_path / "checkpoint-a-4")["updates"] == 4


def test_the_only_checkpoint_is_damaged(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, "a", 5, state(5))
    data = path / "__0_0.distcp"
    size = data.stat().st_size
    data.write_bytes(data.read_bytes()[:700])
    then = "copy it again, or --resume=previous, which removes it and begins the stage again"
    with pytest.raises(UserError, match=rf"__0_0.distcp: is 700 bytes long, {size} were written: {then}"):
        loaded(path)
    data.unlink()
    with pytest.raises(UserError, match="is in manifest.json, and cannot be read"):
        loaded(path)
    checkpoint.drop_latest(tmp_path, "a")
    with pytest.raises(UserError, match="holds no checkpoint of a to go back from"):
        checkpoint.drop_latest(tmp_path, "a")


class _Executes:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_an_index_cannot_execute_code_or_name_files_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = checkpoint.save(tmp_path, "a", 5, state(5))

    def replaced(index: object) -> None:
        (path / ".metadata").write_bytes(pickle.dumps(index))
        integrity.write_manifest(path, integrity.digests(path))

    index = dcp.FileSystemReader(path).read_metadata()
    replaced(_Executes())
    with pytest.raises(UserError, match=r"is no readable checkpoint \(names posix\.mkdir, which no index"):
        loaded(path)
    assert not (tmp_path / "executed").exists()
    for entry in index.storage_data.values():
        entry.relative_path = "../other"
    replaced(index)
    with pytest.raises(UserError, match=r"'\.\./other' is no file of this folder"):
        loaded(path)


def test_weights_alone_are_the_ema_where_there_is_one(tmp_path: Path) -> None:
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    trained = {"model.head.weight": torch.ones(2, 2)}
    other_bias = other.bias.detach().clone()
    checkpoint.load_weights(checkpoint.save(tmp_path, "raw", 1, trained), {"head": net, "dit": other})
    assert torch.equal(net.weight, torch.ones(2, 2)) and torch.equal(other.bias, other_bias)
    averaged = trained | {"ema.head.weight": torch.full((2, 2), 3.0), "updates": torch.tensor(1)}
    checkpoint.load_weights(checkpoint.save(tmp_path, "ema", 1, averaged), {"head": net})
    assert torch.equal(net.weight, torch.full((2, 2), 3.0))
    with pytest.raises(UserError, match=r"'head\.weight' is \[2, 2\], this model has \[5, 2\]"):
        checkpoint.load_weights(tmp_path / "checkpoint-raw-1", {"head": nn.Linear(2, 5)})
    with pytest.raises(UserError, match="holds no weights for lora: is it of another stage"):
        checkpoint.load_weights(tmp_path / "checkpoint-raw-1", {"lora": net})


@pytest.mark.parametrize(
    ("free", "advice"),
    [
        (5, None),  # four are kept while one more is written
        (4, "make room or set a.loop.keep to 3, then --resume"),
        (2, "make room or set a.loop.keep to 1, then --resume"),
        (1, "make room, then --resume"),
    ],
)
def test_room_that_is_short_names_the_largest_keep_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, advice: str | None
) -> None:
    one = {"w": torch.zeros(1 << 20)}
    disk = shutil.disk_usage(tmp_path)._replace(free=free << 22)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: disk)
    if advice is None:
        checkpoint.check_room(tmp_path, "a", one, writes=9, keep=4)
        return
    with pytest.raises(UserError) as caught:
        checkpoint.check_room(tmp_path, "a", one, writes=9, keep=4)
    sizes = f"they take 20.0 MiB, {4 * free}.0 MiB are free"
    assert str(caught.value) == f"{tmp_path}: no space left for the checkpoints of a: {sizes}: {advice}"


@pytest.mark.parametrize("action", ["save", "load"])
def test_a_signal_meanwhile_is_no_fault_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """torch wraps whatever is raised in it, as if it were one."""
    state = {"x": torch.ones(3)}
    checkpoint.save(tmp_path, "a", 1, state)

    def stopped(*given: Any, **options: Any) -> None:
        raise Stopped("SIGTERM")

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", stopped)
    monkeypatch.setattr(dcp.FileSystemReader, "read_data", stopped)
    with pytest.raises(Stopped, match="^SIGTERM$"):
        if action == "save":
            checkpoint.save(tmp_path, "a", 2, state)
        else:
            checkpoint.load(checkpoint.path_of(tmp_path, "a", 1), state)
    assert checkpoint.latest(tmp_path, "a") == (tmp_path / "checkpoint-a-1", 1)
