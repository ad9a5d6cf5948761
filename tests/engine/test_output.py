"""Output folders and files: refused before any work, or complete at the end, for every kind of path."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from phys4d.engine import output
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.journal import kept_rows
from phys4d.engine.data.files.shards import INDEX, ShardWriter
from phys4d.engine.errors import UserError
from phys4d.engine.integrity import MANIFEST
from phys4d.engine.output import OutputFolder, check_file, check_folder, write_file
from phys4d.simulation.distributed import ProcessRank, RankFiles

InChild = Callable[[Callable[[], None]], int]
SHARDS = [f"shard-{number:06d}.tar" for number in range(4)]
WHOLE = sorted([INDEX, MANIFEST, *SHARDS])


def write(out: Path, recipe: str | None = None, clips: int = 4) -> None:
    with ShardWriter(out, shard_bytes=1, recipe=recipe) as writer:
        for number in range(writer.kept, clips):
            writer.add(f"c{number}", {"json": b"%d" % number}, 1, 24, 2, 2)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def holds_all(folder: Path) -> bool:
    dataset = ClipDataset(folder)
    return [dataset.member(dataset.row(n), "json") for n in range(len(dataset))] == [b"%d" % n for n in range(4)]


@pytest.mark.parametrize(
    "how", ["link", "here", "slash", "dots", "missing parents", "link among parents", "fresh disk"]
)
@pytest.mark.parametrize("recipe", [None, "seed 1"])
def test_the_data_lands_where_the_path_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, recipe: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "scratch")
    out, real = Path("new"), tmp_path / "new"
    if how == "link":
        out, real = tmp_path / "data", tmp_path / "scratch"
    elif how == "here":
        monkeypatch.chdir(tmp_path / "scratch")
        out, real = Path("."), tmp_path / "scratch"
    elif how == "slash":
        out = Path("new/")
    elif how == "dots":
        out = Path("scratch/../new")
    elif how == "missing parents":
        out, real = Path("a/b/c"), tmp_path / "a/b/c"
    elif how == "link among parents":
        out, real = Path("data/new"), tmp_path / "scratch/new"
    elif how == "fresh disk":
        (tmp_path / "scratch/lost+found").mkdir()
        out, real = Path("scratch"), tmp_path / "scratch"
    kept = real.stat().st_ino if real.exists() else None
    write(out, recipe)
    assert [name for name in names(real) if name != "lost+found"] == WHOLE and holds_all(out)
    assert kept in (None, real.stat().st_ino)
    assert not list(tmp_path.rglob(".*"))
    with pytest.raises(UserError, match="exists and is not empty: choose another folder or remove it"):
        write(out, recipe)


@pytest.mark.parametrize("there", [False, True])
def test_a_relative_path_means_the_same_after_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / "clips").mkdir()
    with ShardWriter(Path("clips")) as writer:
        os.chdir("/")
        writer.add("c0", {"json": b"0"}, 1, 24, 2, 2)
    assert names(tmp_path) == ["clips"] and names(tmp_path / "clips") == [INDEX, MANIFEST, SHARDS[0]]


def refuse_to_move(monkeypatch: pytest.MonkeyPatch, number: int, where: Callable[[Path], bool]) -> None:
    """os.rename fails where `where` holds of its target, as it does on a mount point or across file systems."""
    rename = os.rename

    def refusing(source: Path, target: Path) -> None:
        if where(Path(target)):
            raise OSError(number, os.strerror(number))
        rename(source, target)

    monkeypatch.setattr(output.os, "rename", refusing)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV])
def test_nothing_is_renamed_onto_a_folder_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A mount point refuses to be replaced, and what is beside it lies on another file system."""
    out = tmp_path / "disk"
    out.mkdir()
    refuse_to_move(monkeypatch, number, lambda target: target == out or out not in target.parents)
    write(out)
    assert names(out) == WHOLE and holds_all(out)


@pytest.mark.parametrize("there", [False, True])
def test_a_failing_last_move_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """It says where everything is; with a recipe, the same command moves it, without one it is not written over."""
    for name, recipe in (("noted", "seed 1"), ("other", None)):
        out = tmp_path / name
        if there:
            out.mkdir()
        partial = OutputFolder.of(out).partial
        with monkeypatch.context() as patch:
            refuse_to_move(patch, errno.EIO, lambda target: target in (out, out / SHARDS[2]))  # noqa: B023
            with pytest.raises(UserError) as caught:
                write(out, recipe)
        what = f"{out}: what was made is whole in {partial}, but cannot be moved to its place (Input/output error)"
        assert str(caught.value) == f"{what}: move it yourself"
        assert not (out / INDEX).exists() and (partial / INDEX).exists()
        if recipe is None:
            with pytest.raises(UserError, match="holds a whole dataset that was not moved: move it or remove it"):
                write(out, recipe)
            assert (partial / INDEX).exists()
        else:
            with ShardWriter(out, shard_bytes=1, recipe=recipe) as writer:
                assert writer.kept == 4
            assert names(out) == WHOLE and holds_all(out)
            assert not partial.exists()


@pytest.mark.parametrize("moved", range(7))
def test_a_kill_between_the_last_moves_loses_nothing(tmp_path: Path, in_child: InChild, moved: int) -> None:
    """Into a folder that was there: the index makes it a dataset, and before that the same command goes on."""
    out = tmp_path / "clips"
    out.mkdir()

    def killed() -> None:
        rename, done = os.rename, [0]

        def counting(source: Path, target: Path) -> None:
            if Path(target).parent == out:
                if done[0] == moved:
                    os.kill(os.getpid(), signal.SIGKILL)
                done[0] += 1
            rename(source, target)

        output.os.rename = counting  # type: ignore[assignment]
        write(out, "seed 1")

    assert in_child(killed) == (-signal.SIGKILL if moved < 6 else 0)
    assert (out / INDEX).exists() == (moved == 6)
    if moved < 6:
        assert not OutputFolder.of(out).is_occupied() and len(kept_rows(out, "seed 1")) == 4
        write(out, "seed 1")
    assert names(out) == WHOLE and holds_all(out)


def test_a_writer_that_waits_outside_does_not_take_back_what_another_moves(tmp_path: Path) -> None:
    out = tmp_path / "clips"
    out.mkdir()
    with ShardWriter(out, recipe="seed 1"):
        (out / "shard-000000.tar").write_bytes(b"moved")
        (OutputFolder.of(out).partial / ".moving").write_text('["shard-000000.tar"]')
        with pytest.raises(UserError, match="another process is writing this dataset"):
            ShardWriter(out, recipe="seed 1").__enter__()
        assert (out / "shard-000000.tar").exists()


def test_files_of_others_are_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "clips"
    out.mkdir()
    with pytest.raises(UserError, match=r"cannot be moved to its place \(index.parquet is there\)"), ShardWriter(out):
        (out / INDEX).write_text("of another")
    assert names(out) == [".phys4d-partial", INDEX] and (out / INDEX).read_text() == "of another"


def test_what_was_begun_before_the_folder_existed_is_not_forgotten(tmp_path: Path, in_child: InChild) -> None:
    out = tmp_path / "clips"

    def killed() -> None:
        with ShardWriter(out, recipe="seed 1") as writer:
            writer.add("c0", {"json": b"0"}, 1, 24, 2, 2)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    out.mkdir()
    with pytest.raises(UserError, match=r"\.clips\.partial: was begun when .*clips did not exist: remove the empty"):
        write(out, "seed 1")
    out.rmdir()
    assert len(kept_rows(out, "seed 1")) == 1
    write(out, "seed 1")
    assert holds_all(out)


def test_ranks_find_each_other_in_every_kind_of_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of ranks that write do not make a place taken, and none stays but shards, index and manifest."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").symlink_to("scratch")
    monkeypatch.chdir(tmp_path / "scratch")
    second = RankFiles(Path("."), "seed 1", ProcessRank(1, 2))
    with ShardWriter(Path("."), recipe="seed 1", rank=1, ranks=2) as writer, second.alive():
        writer.add("c0001", {"json": b"{}"}, 1, 24, 2, 2)
    second.end("its notes")
    assert not OutputFolder.of(Path(".")).is_occupied()
    first = RankFiles(tmp_path / "data", "seed 1", ProcessRank(0, 2))
    with ShardWriter(tmp_path / "data", recipe="seed 1", ranks=2) as writer:
        assert not OutputFolder.of(tmp_path / "data").is_occupied()
        writer.add("c0000", {"json": b"{}"}, 1, 24, 2, 2)
        assert first.wait({1: ["c0001"]}) == ["its notes"]
        writer.merge(first.rows())
    assert OutputFolder.of(tmp_path / "data").is_occupied()
    assert names(tmp_path / "scratch") == [INDEX, MANIFEST, SHARDS[0], "shard-1-000000.tar"]


@pytest.mark.parametrize("check", [lambda path: ShardWriter(path).__enter__(), check_folder, check_file])
def test_what_cannot_be_written_is_refused(tmp_path: Path, check: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to("/unmounted/disk")
    (tmp_path / "round").symlink_to("round")
    gone = "gone is a link to /unmounted/disk, which is not there: make that first"
    under_a_file = r"file(/x)?: (cannot be written: Not a directory|is a file, where a folder is needed): choose"
    for path, line in (
        (tmp_path / "file/x", under_a_file),
        (tmp_path / ("x" * 300), r"x: cannot be written: File name too long: choose another place"),
        (tmp_path / "gone", f"{tmp_path}/gone: {tmp_path}/{gone}"),
        (tmp_path / "gone/x", f"{tmp_path}/gone/x: {tmp_path}/{gone}"),
        (tmp_path / "round", "round"),
        (Path("/proc/x/y"), "/proc/x/y: "),
    ):
        if check is check_file and str(path).startswith("/proc"):
            continue  # an open file of a process, perhaps: only writing shows
        with pytest.raises(UserError, match=line):
            check(path)
    assert names(tmp_path) == ["file", "gone", "round"] and not Path("/unmounted").exists()


def test_a_folder_for_a_file_and_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for check in (ShardWriter, check_folder):
        with pytest.raises(UserError, match="file: is a file, where a folder is needed: choose another name"):
            check(tmp_path / "file")
    with pytest.raises(UserError, match="is a folder: name a file"):
        check_file(tmp_path)


def test_a_place_that_one_may_not_write_to_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(**named: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(output.tempfile, "TemporaryFile", closed)
    for number, check in enumerate((lambda path: ShardWriter(path).__enter__(), check_folder, check_file)):
        with pytest.raises(UserError, match=f"{number}: cannot be written: Permission denied: choose another place"):
            check(tmp_path / f"{number}")


def test_a_file_is_written_where_links_lead_and_into_pipes(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/real").write_text("old")
    (tmp_path / "link").symlink_to("disk/real")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "link", tmp_path / "a/b", Path("/dev/null")):
        check_file(path)
        write_file(path, b"new")
    assert (tmp_path / "disk/real").read_bytes() == (tmp_path / "a/b").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "disk") == ["real"]
    check_file(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_file(tmp_path / "pipe", b"new")
    assert os.read(reader, 9) == b"new"
    os.close(reader)
