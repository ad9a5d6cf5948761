"""Where a command writes: checked and prepared before any work; what was made appears there whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from phys4d.engine.errors import UserError
from phys4d.engine.storage import replace_bytes

_HIDDEN = ".phys4d-"  # begins the names of unfinished files in a folder that was there before
_MOVING = ".moving"  # in the folder of unfinished files: names that are being moved to their place
_FRESH = "lost+found"  # in the root of a new file system


@dataclass(frozen=True)
class Place:
    """The place of a new folder, and of its files while they are being written.

    named: the path as the user gave it. folder: the same, absolute and without links. there: whether it exists.

    A folder that does not exist is written beside its place and renamed. One that exists may be a mount point, a
    working directory or have its own rights, so it stays: its files are written to a hidden folder inside and moved one
    by one, the last of which (an index, say) makes it whole.
    """

    named: Path
    folder: Path
    there: bool

    @classmethod
    def of(cls, named: Path) -> Self:
        """Decides by what is at `named` now. UserError for a file, and for a link to nothing."""
        with _writing(named):
            _refuse_link_to_nothing(named)
            _refuse_file(named)
            folder = Path(os.path.realpath(named))
            return cls(named, folder, folder.exists())

    @property
    def partial(self) -> Path:
        """The folder of unfinished files."""
        return self.hidden("partial")

    def hidden(self, purpose: str) -> Path:
        """A hidden folder on the same file system, other than those of other purposes."""
        return self.folder / f"{_HIDDEN}{purpose}" if self.there else self._beside(purpose)

    def taken(self) -> bool:
        """Whether the folder holds anything that is not an unfinished dataset of ours."""
        if not self.there:
            return self.folder.exists() and any(self.folder.iterdir())
        names = {name for name in os.listdir(self.folder) if not name.startswith(_HIDDEN)}
        return bool(names - {_FRESH, *self._moving()})

    def prepare(self) -> None:
        """Makes the folder of unfinished files, or finds the one that a writer left.

        Raises UserError where the place is taken or cannot be written.
        """
        with _writing(self.named):
            if self.taken():
                raise UserError(f"{self.named}: exists and is not empty: choose another folder or remove it")
            if self.there and (left := self._beside("partial")).exists():
                raise UserError(
                    f"{left}: was begun when {self.named} did not exist: remove the empty folder {self.named} to go on "
                    "with it, or remove what was begun"
                )
            self.partial.mkdir(parents=True, exist_ok=True)
            _try_writing(self.partial)

    def take_back(self) -> None:
        """Makes what a writer that was killed had moved to its place unfinished again; call with a lock on it."""
        with _writing(self.named):
            for name in self._moving():
                if (self.folder / name).exists():
                    os.rename(self.folder / name, self.partial / name)
            (self.partial / _MOVING).unlink(missing_ok=True)

    def publish(self, last: str, unpublished: Collection[str]) -> None:
        """Moves the finished files to their place, the one named `last` as the last one.

        unpublished: names of those that only the writing needed; removed once the folder is whole. Raises UserError
        where the system does not move them: then they stay, and the line says where.
        """
        partial = self.partial
        try:
            if self.there:
                self._move_files(last, unpublished)
                shutil.rmtree(partial, ignore_errors=True)
            else:
                os.rename(partial, self.folder)
                for name in unpublished:
                    (self.folder / name).unlink(missing_ok=True)
                sync(self.folder.parent)
            sync(self.folder)
        except OSError as error:
            raise UserError(
                f"{self.named}: what was made is whole in {partial}, but cannot be moved to its place "
                f"({error.strerror}): move it yourself"
            ) from None

    def _move_files(self, last: str, unpublished: Collection[str]) -> None:
        names = sorted(set(os.listdir(self.partial)) - {last, *unpublished})
        for name in (*names, last):
            if (self.folder / name).exists():
                raise FileExistsError(0, f"{name} is there")
        replace_bytes(self.partial / _MOVING, json.dumps(names).encode())
        for name in names:
            os.rename(self.partial / name, self.folder / name)
        sync(self.folder)
        os.rename(self.partial / last, self.folder / last)

    def _moving(self) -> list[str]:
        """What a writer that was killed was moving to its place."""
        path = self.partial / _MOVING
        return json.loads(path.read_text(encoding="utf-8")) if self.there and path.exists() else []

    def _beside(self, purpose: str) -> Path:
        return self.folder.parent / f".{self.folder.name}.{purpose}"


def check_folder(folder: Path) -> None:
    """Makes a folder that other files may be in already. UserError where files cannot be written to it."""
    with _writing(folder):
        _refuse_link_to_nothing(folder)
        _refuse_file(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _try_writing(folder)


def check_file(file: Path) -> None:
    """UserError unless `write_file` can write there; makes the folder that the file is to be in."""
    with _writing(file):
        _refuse_link_to_nothing(file)
        real = Path(os.path.realpath(file))
        if real.is_dir():
            raise UserError(f"{file}: is a folder: name a file")
        if not _is_device(file):
            _refuse_file(real.parent)
            real.parent.mkdir(parents=True, exist_ok=True)
            _try_writing(real.parent)


def write_file(file: Path, data: bytes) -> None:
    """Writes a file whole or not at all, where links lead to; into a pipe or a device as it comes."""
    if _is_device(file):
        file.write_bytes(data)
    else:
        replace_bytes(Path(os.path.realpath(file)), data)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_device(file: Path) -> bool:
    """Whether it is a pipe or a device, or names an open file of this process; none of these can be replaced."""
    if str(file).startswith(("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")):
        return True
    return file.exists() and not file.is_file() and not file.is_dir()


def _try_writing(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


def _refuse_link_to_nothing(path: Path) -> None:
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            raise UserError(f"{path}: {part} is a link to {os.readlink(part)}, which is not there: make that first")


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, where a folder is needed: choose another name")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}: choose another place") from None
