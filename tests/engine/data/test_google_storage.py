"""Datasets in Google Cloud Storage: gcsfs reads them from a server of Google's JSON interface."""

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from phys4d.engine.data.access import remote_files, transports
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.engine.faults import MachineFault
from phys4d.engine.location import Remote
from tests.engine.data.test_remote_datasets import equal


@pytest.fixture
def google_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of Google's JSON interface with an empty bucket named "bucket", where gcsfs looks for it."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install -e '.[dev]'")
    server = pytest.importorskip("gcp_storage_emulator.server", reason="not installed: pip install -e '.[dev]'")
    store = server.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    store.start()
    monkeypatch.setattr(transports, "_made", {})
    monkeypatch.setattr(remote_files, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{store._api._httpd.server_port}")
    yield store
    if store._api.is_running.is_set():
        store.stop()


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_an_object_store_of_google(
    google_store: Any,
    write_dataset: Callable[[dict[int, dict[str, bytes]]], Path],
    scheme: str,
    monkeypatch: pytest.MonkeyPatch,
    in_child: Callable[[Callable[[], None]], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    local = write_dataset({})
    upload = f"{os.environ['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/bucket/o?uploadType=media&name=clips/"
    for file in local.iterdir():
        httpx.post(upload + file.name, content=file.read_bytes()).raise_for_status()
    dataset, expected = ClipDataset(f"{scheme}://bucket/clips"), [*map(ClipDataset(local).__getitem__, range(6))]
    with ThreadPoolExecutor(3) as pool:
        assert all(map(equal, pool.map(dataset.__getitem__, range(6)), expected))
    assert verify(Remote(f"{scheme}://bucket/clips")) == []

    def reads() -> None:
        assert equal(dataset[2], expected[2])

    assert in_child(reads) == 0
    with pytest.raises(UserError, match=f"{scheme}://bucket/none: no index.parquet there"):
        ClipDataset(f"{scheme}://bucket/none")
    shard = (local / "shard-000000.tar").read_bytes()
    cut = shard[: dataset.row(1)["members"]["mp4"]["offset"] - 600]
    httpx.post(upload + "shard-000000.tar", content=cut).raise_for_status()
    with pytest.raises(ClipFault, match="clip-1: mp4 is truncated: 0 of"):
        ClipDataset(f"{scheme}://bucket/clips")[1]
    google_store.stop()
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=lambda seconds: asyncio.sleep(0)))
    with pytest.raises(MachineFault, match=r"shard-000001.tar: clip clip-3: .*\(4 attempts\): the fault is in the s"):
        dataset[3]
    assert not [record for record in caplog.records if record.name.startswith("gcsfs")]


@pytest.mark.parametrize(("status", "error"), [(401, ""), (403, '{"error": {"message": "no right"}}')])
def test_an_object_of_google_that_may_not_be_read(
    google_store: Any, status: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gcp_storage_emulator import server

    close = server.Response.close

    def refused(response: Any) -> None:
        response.status, response._content = HTTPStatus(status), error
        close(response)

    monkeypatch.setattr(server.Response, "close", refused)
    with pytest.raises(UserError, match=r"gs://bucket/clips/index.parquet: Permission denied \(.*\)"):
        ClipDataset("gs://bucket/clips")
