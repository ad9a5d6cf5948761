"""Datasets behind a URL: the same samples by parts of files, from threads, forks and pickles; faults of servers."""

import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.access import remote_files, transports
from phys4d.engine.data.access.remote_files import RemoteFiles
from phys4d.engine.data.dataset import ClipDataset, ClipFault, Sample
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.engine.faults import MachineFault
from phys4d.engine.location import Remote
from tests.engine.servers import Served, own_certificate, web_server

Write = Callable[[dict[int, dict[str, bytes]]], Path]
Child = Callable[[Callable[[], None]], int]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def local(write_dataset: Write) -> Path:
    return write_dataset({})


@pytest.fixture
def served(local: Path) -> Iterator[Served]:
    with web_server(local.parent) as server:
        server.url += "/clips"
        yield server


def equal(one: Sample, other: Sample) -> bool:
    arrays = one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays
    )
    return arrays and np.array_equal(one.video, other.video) and (one.key, one.meta) == (other.key, other.meta)


def test_a_clip_is_read_by_its_bytes_alone(local: Path, served: Served) -> None:
    dataset, expected = ClipDataset(served.url), ClipDataset(local)
    assert len(dataset) == 6 and dataset.column("caption").equals(expected.column("caption"))
    served.sent.clear()
    assert equal(dataset[3], expected[3])
    assert sorted(served.sent) == sorted(
        ("shard-000001.tar", member["size"]) for member in expected.row(3)["members"].values()
    )
    served.sent.clear()
    assert dataset.probe(4) == expected.meta(4)
    assert sum(size for _, size in served.sent) < local.joinpath("shard-000002.tar").stat().st_size


def test_from_threads_forks_and_pickles(local: Path, served: Served, in_child: Child) -> None:
    dataset, expected = ClipDataset(served.url), [*map(ClipDataset(local).__getitem__, range(6))]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(equal, pool.map(dataset.__getitem__, [*range(6)] * 3), expected * 3))

    connections = transports._client()

    def reads() -> None:
        assert equal(dataset[2], expected[2])
        assert transports._client() is not connections  # two processes on one socket would take each other's answers

    assert in_child(reads) == 0
    assert equal(pickle.loads(pickle.dumps(dataset))[1], expected[1])
    assert equal(dataset[5], expected[5])


def test_https_with_a_certificate(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate")
    files = own_certificate(tmp_path)
    with web_server(local, files) as server:
        monkeypatch.setattr(transports, "_made", {})
        with pytest.raises(MachineFault, match=r"ConnectError: .*CERTIFICATE_VERIFY_FAILED.*\(4 attempts\)"):
            ClipDataset(server.url)
        monkeypatch.setattr(transports, "_made", {})
        monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
        assert ClipDataset(server.url)[0].key == "clip-0"
    monkeypatch.setattr(transports, "_made", {})


@pytest.mark.parametrize("fault", [503, 429, "drop"])
def test_a_fault_that_passes_is_tried_again(local: Path, served: Served, fault: int | str) -> None:
    dataset, left = ClipDataset(served.url), [fault, fault, fault]
    served.fault = lambda path, part: left.pop() if left else None
    assert equal(dataset[1], ClipDataset(local)[1])
    assert left == []


@pytest.mark.parametrize(
    ("fault", "attempts", "said"),
    [
        (503, 4, r"HTTP 503 \(4 attempts\): the fault is in the server or the connection to it, not in the data"),
        ("drop", 4, r"RemoteProtocolError: .*\(4 attempts\): the fault is in the server"),
        (418, 1, "HTTP 418: the fault is in the server"),
        ("whole", 1, r"the server does not serve parts of files \(HTTP ranges\): the fault is in the server"),
        ("more", 1, "the server sends more than was asked for: the fault is in the server"),
        (403, 1, r"Permission denied \(HTTP 403\): the fault is in .*: you need the right to read it"),
    ],
)
def test_a_fault_that_stays_names_url_and_clip(served: Served, fault: int | str, attempts: int, said: str) -> None:
    dataset = ClipDataset(served.url)
    asked: list[str] = []

    def answer(path: str, part: tuple[int, int] | None) -> int | str | None:
        asked.append(path)
        return fault if part != (0, 1) else None

    served.fault = answer
    with pytest.raises(MachineFault, match=f"^{served.url}/shard-000000.tar: clip clip-1: {said}"):
        dataset[1]
    assert len([path for path in asked if path == "shard-000000.tar"]) in (attempts, attempts + 1)


def test_a_server_that_does_not_answer_in_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ClipDataset(served.url)
    monkeypatch.setattr(transports, "_made", {})
    monkeypatch.setattr(transports, "_SILENCE", 0.1)
    served.fault = lambda path, part: "wait"
    with pytest.raises(MachineFault, match=r"clip clip-0: ReadTimeout.*\(4 attempts\)"):
        dataset[0]
    monkeypatch.setattr(transports, "_made", {})


def test_damage_and_absence_are_those_of_the_data(local: Path, served: Served) -> None:
    dataset = ClipDataset(served.url)
    shard = local / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[dataset.row(0)["members"]["mp4"]["offset"] + 40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ClipFault, match="clip-0: mp4 differs from its digest in the index: it is damaged"):
        dataset[0]
    shard.write_bytes(data[: dataset.row(1)["members"]["mp4"]["offset"]])
    with pytest.raises(ClipFault, match=r"clip-1: mp4 is truncated: 0 of \d+ bytes can be read: see `phys4d"):
        dataset[1]
    (local / "shard-000001.tar").unlink()
    with pytest.raises(ClipFault, match=f"{served.url}/shard-000001.tar: clip clip-2: the shard cannot be opened"):
        dataset[2]
    problems = verify(Remote(served.url))
    assert [line.split(": ")[1] for line in problems].count("clip clip-2") >= 1 and "clip-4" not in "".join(problems)


def test_an_index_that_is_absent_damaged_or_too_long(
    local: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="/none: no index.parquet there: this is no dataset"):
        ClipDataset(f"{served.url}/none")
    index = local / "index.parquet"
    whole = index.read_bytes()
    index.write_bytes(whole[:-9] + b"x" + whole[-8:])
    with pytest.raises(UserError, match="index.parquet: is damaged, its SHA-256 is not that in manifest.json"):
        ClipDataset(served.url)
    (local / "manifest.json").unlink()
    index.write_bytes(whole)
    assert len(ClipDataset(served.url)) == 6
    monkeypatch.setattr("phys4d.engine.data.files.index.INDEX_BYTES", 1000)
    served.sent.clear()
    with pytest.raises(UserError, match="index.parquet: has .* bytes, at most 1000 are read"):
        ClipDataset(served.url)
    assert sum(size for _, size in served.sent) == 1


def test_a_dataset_in_the_memory_of_the_process(local: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in local.iterdir():
        memory.pipe_file(f"/clips/{path.name}", path.read_bytes())
    try:
        assert equal(ClipDataset("memory://clips")[4], ClipDataset(local)[4])
        files, path = RemoteFiles(), Remote("memory://clips/manifest.json")
        end = files.size(path)
        assert files.read(path, 9, end - 4) == memory.cat_file(path.url)[-4:] and files.read(path, 9, end) == b""
        with pytest.raises(FileNotFoundError):
            files.size(Remote("memory://clips"))
    finally:
        memory.rm("/clips", recursive=True)


@pytest.mark.parametrize(("url", "name"), [("s3://bucket/clips", "s3fs"), ("https://host/clips", "httpx")])
def test_an_absent_library_is_named(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "_made", {})
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{name}.*: pip install 'phys4d\[remote\]'"):
        ClipDataset(url)


def test_an_object_store(local: Path, monkeypatch: pytest.MonkeyPatch, in_child: Child) -> None:
    import s3fs
    from moto.server import ThreadedMotoServer

    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    try:
        host, port = store.get_host_and_port()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket = s3fs.S3FileSystem(skip_instance_cache=True)
        bucket.mkdir("bucket")
        bucket.put(str(local), "bucket/clips", recursive=True)
        dataset, expected = ClipDataset("s3://bucket/clips"), [*map(ClipDataset(local).__getitem__, range(6))]
        with ThreadPoolExecutor(3) as pool:
            assert all(map(equal, pool.map(dataset.__getitem__, range(6)), expected))
        assert verify(Remote("s3://bucket/clips")) == []

        def reads() -> None:
            assert equal(dataset[2], expected[2])

        assert in_child(reads) == 0
        with pytest.raises(UserError, match="s3://bucket/none: no index.parquet there"):
            ClipDataset("s3://bucket/none")
        shard = (local / "shard-000000.tar").read_bytes()
        bucket.pipe("bucket/clips/shard-000000.tar", shard[: dataset.row(1)["members"]["mp4"]["offset"] - 600])
        with pytest.raises(ClipFault, match="clip-1: mp4 is truncated: 0 of"):
            ClipDataset("s3://bucket/clips")[1]
    finally:
        store.stop()
    with pytest.raises(MachineFault, match=r"shard-000001.tar: clip clip-3: .*\(4 attempts\): the fault is in the s"):
        dataset[3]


def test_the_command_takes_a_url(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", f"{served.url}/"]) == 0
    assert capsys.readouterr().out == f"{served.url}: all clips are whole\n"
    assert main(["data", "verify", "ftp://host/clips"]) == 2
    assert main(["data", "verify", "$NOT_SET/clips"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("phys4d: error: ")]
    assert len(said) == 2 and "ftp is not read" in said[0] and "$NOT_SET is not set" in said[1]
