"""Checkpoints in torch's distributed format (DCP): written atomically, resharded and validated when they are loaded."""

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from phys4d.engine import integrity
from phys4d.engine.checkpoint_reader import TensorReader
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.flat import detached
from phys4d.engine.distributed.watchdog import peer_is_gone
from phys4d.engine.errors import FaultElsewhere, UserError
from phys4d.engine.integrity import Digest
from phys4d.engine.storage import check_stopped, disk_fault, replace_text

_CARD = "checkpoint.json"


def path_of(folder: Path, stage: str, step: int) -> Path:
    """The folder of a checkpoint."""
    return Path(folder) / f"checkpoint-{stage}-{step}"


def save(
    folder: Path,
    stage: str,
    step: int,
    state: Mapping[str, Tensor],
    *,
    keep: int = 2,
    keep_every: int = 0,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Writes `state` to folder/checkpoint-<stage>-<step>/ and returns that path; all ranks must call it.

    The files are written to a hidden folder with a digest of each, synced to the disk and then renamed, so a checkpoint
    exists completely or not at all. Then the file folder/latest is set to its name, and older checkpoints of the stage
    beyond `keep` are removed. An existing checkpoint of that step is kept.

    folder: run folder.
    stage: name of the stage.
    step: number of finished steps.
    state: name -> tensor or DTensor.
    keep: number of checkpoints of the stage that remain.
    keep_every: those of multiples of so many steps remain, too; 0: none.
    group: gloo group of all ranks that does the collectives; default: the process group.

    Raises UserError if the disk does not accept it; earlier checkpoints are then unchanged.
    """
    path = path_of(folder, stage, step)
    if _complete(path):
        return path
    partial = path.with_name(f".{path.name}.partial")
    try:
        on_all_ranks(lambda: _begin(partial), group)
        with _quiet():
            writer = dcp.FileSystemWriter(partial, single_file_per_rank=True, sync_files=True)
            dcp.save(dict(state), storage_writer=writer, no_dist=not dist.is_initialized(), process_group=group)
        files = _digests(partial, group)
        on_all_ranks(lambda: _finish(partial, path, stage, step, keep, keep_every, files), group)
    except (OSError, RuntimeError, dcp.api.CheckpointException) as error:
        check_stopped(error)
        if peer_is_gone(error):
            raise
        if _rank() != 0:  # torch raises an error of one rank on all ranks
            raise FaultElsewhere(0) from error
        reason = disk_fault(error) or _short_of_room(path.parent, state)
        shutil.rmtree(partial, ignore_errors=True)
        if reason is None:
            raise
        raise UserError(
            f"{path}: cannot be written: {reason}: earlier checkpoints are whole: make room, then --resume"
        ) from error
    return path


def check_room(folder: Path, stage: str, state: Mapping[str, Tensor], *, writes: int, keep: int) -> None:
    """Raises UserError unless the disk has space for the coming checkpoints of a stage.

    folder: run folder.
    stage: name of the stage.
    state: name -> tensor or DTensor, as it will be saved.
    writes: number of checkpoints still to be written.
    keep: number of checkpoints that remain.
    """
    there = sum(1 for _ in _of_stage(Path(folder), stage))
    free, size = shutil.disk_usage(folder).free, _bytes(state)

    def needed(kept: int) -> int:
        return size * max(0, min(there + writes, kept + 1) - there)  # kept + 1 exist while the last one is written

    if needed(keep) <= free:
        return
    fits = max((kept for kept in range(1, keep) if needed(kept) <= free), default=None)
    raise UserError(
        f"{folder}: no space left for the checkpoints of {stage}: they take {needed(keep) / 2**20:.1f} MiB, "
        f"{free / 2**20:.1f} MiB are free: make room{f' or set {stage}.loop.keep to {fits}' if fits else ''}, "
        "then --resume"
    )


def _begin(partial: Path) -> None:
    if _rank() == 0:
        for end in ("partial", "removed"):  # of a killed run
            for stale in partial.parent.glob(f".checkpoint-*.{end}"):
                shutil.rmtree(stale)
        partial.mkdir(parents=True)


def _digests(partial: Path, group: dist.ProcessGroup | None) -> dict[str, Digest]:
    """The digests of all files in a checkpoint, on rank 0; each rank reads its own, a collective."""

    def own() -> dict[str, Digest]:
        mine = [path.name for path in partial.glob(f"__{_rank()}_*")]
        return integrity.digests(partial, [*mine, ".metadata"] if _rank() == 0 else mine)

    found = on_all_ranks(own, group)
    if not dist.is_initialized():
        return found
    gathered: list[Any] | None = [None] * dist.get_world_size() if _rank() == 0 else None
    dist.gather_object(found, gathered, group=group)
    return {name: entry for files in gathered or [] for name, entry in files.items()}


def _finish(
    partial: Path, path: Path, stage: str, step: int, keep: int, keep_every: int, files: dict[str, Digest]
) -> None:
    """Completes a checkpoint after all ranks have written their files: manifest, rename, `latest`, removal of old ones.
    """
    if _rank() != 0:
        return
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    card = {"stage": stage, "step": step, "world_size": world_size, "torch": torch.__version__}
    replace_text(partial / _CARD, json.dumps(card) + "\n")
    if path.exists():  # without a manifest it is not a checkpoint
        shutil.rmtree(path)
    integrity.publish(partial, path, files | integrity.digests(partial, [_CARD]))
    replace_text(path.parent / "latest", path.name + "\n")
    for at, old in sorted(_of_stage(path.parent, stage))[:-keep]:
        if not keep_every or at % keep_every:
            integrity.remove(old)


def _short_of_room(folder: Path, state: Mapping[str, Tensor]) -> str | None:
    """The message of a full disk if free space is below the checkpoint's size, else None; call it before removing
    files.

    torch reports a full disk as an unexpected file position.
    """
    return os.strerror(errno.ENOSPC) if shutil.disk_usage(folder).free < _bytes(state) else None


def _bytes(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def latest(folder: Path, stage: str) -> tuple[Path, int] | None:
    """The newest complete checkpoint of a stage and its step, or None; incomplete checkpoints are ignored."""
    found = max(_of_stage(Path(folder), stage), default=None)
    return None if found is None else (found[1], found[0])


def drop_latest(folder: Path, stage: str) -> None:
    """Removes the newest checkpoint of a stage, so that it goes on from the one before. UserError if there is none."""
    found = latest(folder, stage)
    if found is None:
        raise UserError(f"{folder}: holds no checkpoint of {stage} to go back from: --resume goes on with the run")
    integrity.remove(found[0])


def load(path: Path, state: Mapping[str, Tensor]) -> None:
    """Reads a checkpoint into the tensors of `state`, in place; all ranks must call it.

    The number of ranks may differ from that at saving. Every file is compared with its digest before anything is read
    from it; the ranks share that work.

    path: checkpoint folder.
    state: name -> tensor or DTensor.

    Raises UserError, before anything is changed, if a file is damaged, names or shapes differ (another model, stage or
    LoRA rank) or the checkpoint cannot be read.
    """
    stored = _stored_shapes(path)
    card = json.loads((path / _CARD).read_bytes())
    if path.name != (written := f"checkpoint-{card['stage']}-{card['step']}"):
        raise UserError(f"{path}: was written as {written}: it is of another stage or step: remove it")
    for name in sorted(state.keys() | stored.keys()):
        here, there = state.get(name), stored.get(name)
        if here is None or there is None:
            held, lacks = ("the checkpoint", "this run") if here is None else ("this run", "the checkpoint")
            raise UserError(f"{path}: does not fit: {held} has {name!r}, {lacks} has not: is it this run's?")
        if tuple(here.shape) != there:
            shapes = f"{list(there)}, this run needs {list(here.shape)}"
            raise UserError(f"{path}: does not fit: {name!r} is {shapes}: is it this run's?")
    _read(path, state)


def load_weights(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Loads the final weights of a stage (the EMA if it kept one) into `modules`, in place.

    path: checkpoint folder.
    modules: by the names of `Objective.modules()`; parameters that the stage did not train, and modules that it did not
        have, are unchanged.

    Raises UserError if a stored parameter has no counterpart or another shape.
    """
    stored = _stored_shapes(path)
    names = {name.split(".", 1)[1] for name in stored if name.startswith("model.")}
    kind = "ema" if any(name.startswith("ema.") for name in stored) else "model"
    parts = {name: detached(parameter) for name, parameter in named_parameters(modules).items()}
    wanted = {f"{kind}.{name}": name for name in names if name.split(".", 1)[0] in modules}
    if not wanted:
        raise UserError(f"{path}: holds no weights for {', '.join(modules)}: is it of another stage?")
    for key, name in sorted(wanted.items()):
        if name not in parts or tuple(parts[name].shape) != stored[key]:
            has = f"{list(parts[name].shape)}" if name in parts else "no such parameter"
            raise UserError(f"{path}: does not fit: {name!r} is {list(stored[key])}, this model has {has}")
    _read(path, {key: parts[name] for key, name in wanted.items()})


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """All parameters by "module.parameter"; a parameter shared by modules is listed once."""
    named: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                named[f"{prefix}.{name}"] = parameter
    return named


def _read(path: Path, state: Mapping[str, Tensor]) -> None:
    try:
        with _quiet():
            dcp.load(dict(state), storage_reader=TensorReader(path), no_dist=not dist.is_initialized())
    except (OSError, RuntimeError, dcp.api.CheckpointException) as error:
        check_stopped(error)
        if peer_is_gone(error):
            raise
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: cannot be read: {reason}: {_advice(path)}") from error


def _stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in a checkpoint whose files are as they were written; a collective."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    on_all_ranks(lambda: integrity.check(path, _advice(path), share=slice(_rank(), None, ranks)))
    try:
        metadata = TensorReader(path).read_metadata()
    except Exception as error:  # unpickling a foreign index may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: is no readable checkpoint ({reason}): {_advice(path)}") from error
    tensors = metadata.state_dict_metadata.items()
    return {name: tuple(entry.size) for name, entry in tensors if isinstance(entry, TensorStorageMetadata)}


def _advice(path: Path) -> str:
    """What to do about a damaged checkpoint."""
    stage, _, step = path.name.removeprefix("checkpoint-").rpartition("-")
    older = [there for there in _of_stage(path.parent, stage) if there[0] < int(step)]
    then = f"goes on from {max(older)[1].name}" if older else "begins the stage again"
    return f"copy it again, or --resume=previous, which removes it and {then}"


def _of_stage(folder: Path, stage: str) -> Iterator[tuple[int, Path]]:
    for path in folder.glob(f"checkpoint-{stage}-*"):
        match = re.fullmatch(rf"checkpoint-{re.escape(stage)}-(\d+)", path.name)
        if match and _complete(path):
            yield int(match[1]), path


def _complete(path: Path) -> bool:
    return all((path / name).is_file() for name in (".metadata", _CARD, integrity.MANIFEST))


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses DCP's warnings about a missing process group, which is intended for one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
