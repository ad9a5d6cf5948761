"""Output paths of commands: checked and prepared before any work; results appear there completely or not at all."""

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
from phys4d.engine.storage import replace_bytes, sync

_HIDDEN = ".phys4d-"  # prefix of hidden folders inside an output folder that existed before
_MOVING = ".moving"  # in the folder of unfinished files: the names that are being moved to the output folder
_FRESH = "lost+found"  # in the root of an empty file system


@dataclass(frozen=True)
class OutputFolder:
    """The path of an output folder, and of its files while they are being written.

    A folder that does not exist is written next to its path and renamed. A folder that exists may be a mount point, a
        working directory or have special rights, so it is kept: its files are written to a hidden folder inside and
        moved one by one; the last one (an index, for example) makes the output complete.

    given: the path as the user gave it.
    folder: the same, absolute and without links.
    existed: whether it existed before.
    """

    given: Path
    folder: Path
    existed: bool

    @classmethod
    def of(cls, given: Path) -> Self:
        """Examines the path `given`. Raises UserError for a file, and for a link to a missing target."""
        with _writing(given):
            _refuse_link_to_nothing(given)
            _refuse_file(given)
            folder = Path(os.path.realpath(given))
            return cls(given, folder, folder.exists())

    @property
    def partial(self) -> Path:
        """The folder of unfinished files."""
        return self.hidden("partial")

    def hidden(self, purpose: str) -> Path:
        """A hidden folder on the same file system; its name depends on `purpose`."""
        return self.folder / f"{_HIDDEN}{purpose}" if self.existed else self._beside(purpose)

    def is_occupied(self) -> bool:
        """Whether the folder contains anything but unfinished files of this package."""
        if not self.existed:
            return self.folder.exists() and any(self.folder.iterdir())
        names = {name for name in os.listdir(self.folder) if not name.startswith(_HIDDEN)}
        return bool(names - {_FRESH, *self._moving()})

    def prepare(self) -> None:
        """Creates the folder of unfinished files, or reuses that of an interrupted writer.

        Raises UserError if the output folder is not empty or cannot be written.
        """
        with _writing(self.given):
            if self.is_occupied():
                raise UserError(f"{self.given}: exists and is not empty: choose another folder or remove it")
            if self.existed and (left := self._beside("partial")).exists():
                raise UserError(
                    f"{left}: was begun when {self.given} did not exist: remove the empty folder {self.given} to go on "
                    "with it, or remove what was begun"
                )
            if self.partial.is_symlink():
                raise UserError(f"{self.partial}: is a link, where this program keeps unfinished files: remove it")
            self.partial.mkdir(parents=True, exist_ok=True)
            _try_writing(self.partial)

    def undo_publish(self) -> None:
        """Moves files that a killed writer had published back to the unfinished ones; requires the writer's lock."""
        with _writing(self.given):
            for name in self._moving():
                if (self.folder / name).exists():
                    os.rename(self.folder / name, self.partial / name)
            (self.partial / _MOVING).unlink(missing_ok=True)

    def publish(self, last: str, unpublished: Collection[str]) -> None:
        """Moves the finished files to the output folder, the file named `last` as the last one.

        last: name of the file that makes the output complete.
        unpublished: names of files and folders that only the writer needs; removed when the output is complete.

        Raises UserError if the system does not move them; the files then stay, and the message names their path.
        """
        partial = self.partial
        try:
            if self.existed:
                self._move_files(last, unpublished)
                shutil.rmtree(partial, ignore_errors=True)
            else:
                os.rename(partial, self.folder)
                for path in map(self.folder.joinpath, unpublished):
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)
                sync(self.folder.parent)
            sync(self.folder)
        except OSError as error:
            raise UserError(
                f"{self.given}: what was made is whole in {partial}, but cannot be moved to its place "
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
        """Names of the files that a killed writer was moving to the output folder."""
        path = self.partial / _MOVING
        if not self.existed or not path.exists():
            return []
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(names, list) or any(name != Path(name).name for name in names):
                raise ValueError("no list of names")
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: is damaged ({error}): remove {self.partial} and begin again") from None
        return names

    def _beside(self, purpose: str) -> Path:
        return self.folder.parent / f".{self.folder.name}.{purpose}"


def check_folder(folder: Path) -> None:
    """Creates a folder that may contain other files. Raises UserError if files cannot be written to it."""
    with _writing(folder):
        _refuse_link_to_nothing(folder)
        _refuse_file(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _try_writing(folder)


def check_file(file: Path) -> None:
    """Raises UserError unless `write_file` can write the file; creates its parent folder."""
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
    """Writes a file atomically, following links; pipes and devices are written directly."""
    if _is_device(file):
        file.write_bytes(data)
    else:
        replace_bytes(Path(os.path.realpath(file)), data)


def _is_device(file: Path) -> bool:
    """Whether the path is a pipe, a device or an open file of this process; these cannot be replaced by a rename."""
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
