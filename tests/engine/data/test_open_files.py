"""Open files of a dataset: bounded, from threads and forks; errors of the machine are not errors of the data."""

import errno
import os
import pickle
import resource
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phys4d.cli import main
from phys4d.engine.data.access import open_files as open_files_module
from phys4d.engine.data.access.open_files import OPEN_FILES, OpenFiles
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.engine.faults import MachineFault

Write = Callable[[dict[int, dict[str, bytes]]], Path]
InChild = Callable[[Callable[[], None]], int]


def open_in(folder: Path) -> int:
    """How many files below a folder this process has open."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith(str(folder)) for link in links if link.is_symlink())


def numbered(folder: Path, count: int) -> list[Path]:
    """Files that hold their own number, twelve digits of it."""
    paths = [folder / f"{number}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_text(f"{number:012}")
    return paths


def test_a_dataset_of_many_shards_needs_few_files(tmp_path: Path, in_child: InChild) -> None:
    shards = 2 * OPEN_FILES + 6
    with ShardWriter(tmp_path / "clips", shard_bytes=1) as writer:
        for number in range(shards):
            writer.add(f"c{number}", {"mp4": b"%05d" % number}, 1, 24, 2, 2)
    folder = tmp_path / "clips"

    def reads(room: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        dataset = ClipDataset(folder)
        for number in (*range(shards), *reversed(range(shards))):
            assert dataset.member(dataset.row(number), "mp4") == b"%05d" % number
            assert room < taken + OPEN_FILES or open_in(folder) <= OPEN_FILES  # the listing needs a handle itself

    taken = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    assert in_child(lambda: reads(taken + OPEN_FILES + 8)) == 0
    assert in_child(lambda: reads(taken + 8)) == 0  # below OPEN_FILES: idle files are closed


def test_threads_read_the_right_file_while_others_are_closed(tmp_path: Path) -> None:
    paths, files = numbered(tmp_path, 20), OpenFiles(2)

    def read(number: int) -> bool:
        return files.read(paths[number], 12, 0) == b"%012d" % number and files.size(paths[number]) == 12

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, [(7 * n) % 20 for n in range(4000)]))
    assert open_in(tmp_path) == len(files._handles) <= 2
    files.__del__()
    assert open_in(tmp_path) == 0
    files._handles.clear()


def test_a_fork_while_another_thread_reads(tmp_path: Path, in_child: InChild) -> None:
    """A forked child inherits a locked lock, but not the thread that would release it."""
    paths, files = numbered(tmp_path, 6), OpenFiles(2)
    reading, finish = threading.Event(), threading.Event()

    def hold(descriptor: int) -> None:
        reading.set()
        finish.wait()

    other = threading.Thread(target=files._use, args=(paths[0], hold))
    other.start()
    reading.wait()

    def reads() -> None:
        assert [files.read(path, 12, 0) for path in paths] == [b"%012d" % n for n in range(6)]
        assert open_in(tmp_path) == 2

    with files._lock:
        assert in_child(reads) == 0
    finish.set()
    other.join()


def test_a_pickle_has_no_open_files(tmp_path: Path) -> None:
    paths, files = numbered(tmp_path, 2), OpenFiles(5)
    files.read(paths[0], 12, 0)
    copy = pickle.loads(pickle.dumps(files))
    assert copy.limit == 5 and not copy._handles and copy.read(paths[1], 12, 0) == b"000000000001"


def test_short_reads_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pread = numbered(tmp_path, 1)[0], os.pread
    monkeypatch.setattr(open_files_module.os, "pread", lambda descriptor, size, at: pread(descriptor, min(size, 5), at))
    assert OpenFiles().read(path, 12, 0) == b"0" * 12 and OpenFiles().read(path, 100, 10) == b"00"


class Failing:
    """os.pread or os.open that fails the first `times` times for shards."""

    def __init__(self, name: str, number: int, times: int) -> None:
        self.real, self.number, self.times = getattr(os, name), number, times

    def __call__(self, what: int | Path, *rest: int) -> object:
        where = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else str(what)
        if "shard-" in where and self.times > 0:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))
        return self.real(what, *rest)


@pytest.mark.parametrize(
    ("name", "number"),
    [("pread", errno.ESTALE), ("open", errno.ESTALE), ("open", errno.EMFILE), ("open", errno.ENFILE)],
)
def test_what_may_pass_is_tried_once_more(
    write_dataset: Write, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    """A file with a stale handle is reopened."""
    folder, opened, really = write_dataset({}), [], os.open
    expected = ClipDataset(folder)[2]
    monkeypatch.setattr(
        open_files_module.os,
        "open",
        lambda path, flags: opened.extend([path] if "shard-" in str(path) else []) or really(path, flags),
    )
    monkeypatch.setattr(open_files_module.os, name, Failing(name, number, 1))
    sample = ClipDataset(folder)[2]
    assert sample.key == expected.key and (sample.video == expected.video).all()
    assert len(opened) == (2 if name == "pread" else 1) and open_in(folder) <= 1


@pytest.mark.parametrize(
    ("name", "number", "advice"),
    [
        ("pread", errno.EIO, "check the disk or its connection (dmesg), then run the same command again"),
        ("pread", errno.ESTALE, "check the disk or its connection (dmesg), then run the same command again"),
        ("open", errno.EMFILE, "raise the limit of open files (ulimit -n)"),
        ("open", errno.ENFILE, "close other programs or raise fs.file-max"),
        ("open", errno.ENOMEM, "free memory or use a machine with more"),
        ("open", errno.EACCES, "you need the right to read it"),
    ],
)
def test_a_fault_of_the_machine_is_not_one_of_the_data(
    write_dataset: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    number: int,
    advice: str,
) -> None:
    folder = write_dataset({})
    monkeypatch.setattr(open_files_module.os, name, Failing(name, number, 10_000))
    cause = f"{os.strerror(number)}: the fault is in this machine or its file system, not in the data"
    line = f"{folder}/shard-000000.tar: {cause}: {advice}"
    for read in (lambda: ClipDataset(folder)[0], lambda: ClipDataset(folder).probe(0), lambda: verify(folder)):
        with pytest.raises(MachineFault) as caught:
            read()
        assert str(caught.value) == line
    capsys.readouterr()
    assert main(["data", "verify", str(folder)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"phys4d: error: {line}"


def test_a_lack_of_memory_is_the_machines(write_dataset: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dataset({})

    def full(*arguments: object, **named: object) -> None:
        raise MemoryError

    monkeypatch.setattr("phys4d.engine.data.dataset.PyAVDecoder.decode", full)
    with pytest.raises(MachineFault, match="shard-000001.tar: Cannot allocate memory: the fault is in this machine"):
        ClipDataset(folder)[2]


def test_an_index_that_the_machine_cannot_read(write_dataset: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dataset({})

    def failing(*arguments: object, **names: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("phys4d.engine.data.files.index.pq.ParquetFile", failing)
    with pytest.raises(MachineFault, match=r"index\.parquet: Input/output error: the fault is in this machine"):
        ClipDataset(folder)
    monkeypatch.undo()
    (folder / "index.parquet").write_bytes(b"PAR1 but not really PAR1")
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="cannot be read as parquet"):
        ClipDataset(folder)
