"""`phys4d view`: what it opens, what it serves and to which browsers, and the files that it writes."""

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset
from phys4d.evaluate.compare import Results, read_results
from phys4d.simulation.generate import SimulateConfig, simulate
from phys4d.view.server import ViewServer
from phys4d.view.sources import open_source
from tests.report.browser import Opened, chromium
from tests.report.finished_run import fake_run
from tests.report.test_packing import unpacked


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view") / "clips"
    simulate(SimulateConfig(families=("fall", "pendulum"), clips=4, size=(24, 32), frames=9, seed=1), folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def generated(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two clips as `phys4d generate` writes them; the second reads no depth and motion."""
    folder, clips = tmp_path_factory.mktemp("generated") / "model-a", ClipDataset(dataset)
    for number in (0, 1):
        sample = clips[number]
        own = folder / sample.key
        own.mkdir(parents=True)
        meta = {"caption": f"made <b>{number}</b>", "fps": 8.0, "frames": 9, "height": 24, "width": 32}
        meta["intrinsics"] = sample.meta["intrinsics"]
        (own / "clip.json").write_text(json.dumps(meta))
        (own / "video.mp4").write_bytes(encode_mp4(255 - sample.video, 8.0, pixel_format="yuv444p"))
        if number == 0:
            names = ("depth", "motion", "depth_valid", "flow_valid", "dz_valid")
            arrays = {name: sample.arrays[name] for name in names} | {"depth": 1.1 * sample.arrays["depth"]}
            (own / "clip.truth").write_bytes(blob.encode(arrays, blob.QUANTISATION))
    return folder


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts a server of a source on a free port."""
    started: list[ViewServer] = []

    def start(*arguments: Any) -> ViewServer:
        server = ViewServer(open_source(*arguments), 0)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def get(server: ViewServer, path: str, **headers: str) -> tuple[int, bytes, Any]:
    request = urllib.request.Request(server.address + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_clips_of_a_dataset_are_served_as_they_are(dataset: Path, serve: Any) -> None:
    server, sample = serve(dataset, None, None), ClipDataset(dataset)[2]
    code, content, headers = get(server, "clip/2")
    data = json.loads(content)
    assert code == 200 and headers["Content-Type"].startswith("application/json")
    arrays = {name: unpacked(data["arrays"][n]) for name, n in data["rows"][0]["views"]["generated"].items()}
    assert np.array_equal(arrays["video"], sample.video)
    seen = sample.arrays["depth_valid"]
    assert np.allclose(arrays["depth"][seen], sample.arrays["depth"][seen], rtol=6e-4)
    assert np.isnan(arrays["depth"][~seen]).all()
    assert np.allclose(arrays["motion"], sample.arrays["motion"][:2].swapaxes(0, 1), atol=0.006)
    assert data["intrinsics"][0][0] == pytest.approx(sample.meta["intrinsics"][0][0][0], abs=1e-4)
    assert get(server, "poster/0")[1][:4] == b"RIFF"


def test_only_browsers_of_this_machine_are_answered(dataset: Path, serve: Any) -> None:
    server = serve(dataset, None, None)
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, "", Host="evil.example")[0] == 403
    assert get(server, "clip/0", Host=f"evil.example:{server.server_port}")[0] == 403
    assert get(server, "", Host=f"localhost:{server.server_port}")[0] == 200
    for path in ("clip/4", "clip/-1", "clip/0/..", "../index.parquet", "index.parquet", "clip/1e3"):
        assert get(server, path)[0] == 404, path


def test_a_clip_that_cannot_be_read_is_named_to_the_browser(dataset: Path, serve: Any, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "clips")
    row = ClipDataset(dataset).row(1)
    with open(tmp_path / "clips" / row["shard"], "r+b") as shard:
        shard.seek(row["members"]["mp4"]["offset"] + 40)
        shard.write(b"damaged")
    code, content, _ = get(serve(tmp_path / "clips", None, None), "clip/1")
    assert code == 422 and f"clip {row['key']}: mp4 differs from its digest".encode() in content


def test_generated_clips_stand_beside_their_truth(dataset: Path, generated: Path, serve: Any) -> None:
    server = serve(generated, dataset, None)
    data = json.loads(get(server, "clip/0")[1])
    assert [row["name"] for row in data["rows"]] == ["truth", "model-a"]
    assert data["ranges"]["depth_error"] == pytest.approx(0.1, abs=2e-3)
    code, content, _ = get(server, "clip/1")
    assert code == 422 and b"depth, motion of the clip or of its truth is missing" in content
    alone = json.loads(get(serve(generated, None, None), "clip/1")[1])
    assert list(alone["rows"][0]["views"]["generated"]) == ["video"] and alone["caption"] == "made <b>1</b>"


def test_files_of_one_clip(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = ClipDataset(dataset)[3]
    assert main(["view", str(dataset), "--clip", sample.key, "--out", str(tmp_path / "out")]) == 0
    assert "side-by-side.mp4, points/0000.ply to 0008.ply" in capsys.readouterr().out
    with av.open(str(tmp_path / "out" / "side-by-side.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 9 and frames[0].std() > 20
    text = (tmp_path / "out" / "points" / "0004.ply").read_bytes()
    head, _, rows = text.partition(b"end_header\n")
    count = int(re.search(rb"element vertex (\d+)", head)[1])
    points = np.frombuffer(rows, np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)]))
    seen = sample.arrays["depth_valid"][4]
    assert count == len(points) == seen.sum()
    assert np.allclose(np.sort(points["xyz"][:, 2]), np.sort(sample.arrays["depth"][4][seen]))
    assert main(["view", str(dataset), "--clip", sample.key, "--out", str(tmp_path / "few"), "--points", "0"]) == 0
    assert not (tmp_path / "few" / "points").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{empty}"], "is none of a dataset (index.parquet), a clip or a folder of clips (clip.json) and a"),
        (["{data}", "--data", "{data}"], "--data: belongs to clip folders"),
        (["{data}", "--clip", "x"], "--clip: belongs to --out"),
        (["{data}", "--rerun"], "--rerun: belongs to --out"),
        (["{data}", "--out", "{empty}/o"], "holds 4 clips: choose one by --clip, such as"),
        (["{data}", "--out", "{empty}/o", "--clip", "x"], "no clip 'x': its first is"),
        (["{data}", "--port", "70000"], "--port 70000: expected 1 to 65535"),
        (["{data}", "--results", "{empty}/none.json"], "none.json: cannot be read"),
        (["{data}", "--results", "{other}"], "--results: names no clip of"),
        (["{made}", "--out", "{empty}/o", "--clip", "{second}"], "has no depth and no motion in metres and pixels"),
        (["{run}", "--out", "{empty}/o"], "is a run: --out writes one clip of a dataset"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(
    arguments: list[str], said: str, dataset: Path, generated: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "other.json").write_text(json.dumps({"clips": {"x": {"category": "", "values": {"epe": 1.0}}}}))
    run = tmp_path / "run"
    if "{run}" in arguments:
        fake_run(run, scenes=1, size=16, frames=5)
    places = {
        "data": dataset, "made": generated, "empty": tmp_path, "other": tmp_path / "other.json", "run": run,
        "second": ClipDataset(dataset).row(1)["key"],
    }  # fmt: skip
    assert main(["view", *(word.format(**places) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_recording_for_rerun(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, out = ClipDataset(dataset).row(0)["key"], tmp_path / "out"
    words = ["view", str(dataset), "--clip", key, "--out", str(out), "--points", "0", "--rerun"]
    if importlib.util.find_spec("rerun") is None:
        assert main(words) == 2 and 'pip install "phys4d[view]"' in capsys.readouterr().err and not out.exists()
        return
    assert main(words) == 0 and "clip.rrd" in capsys.readouterr().out
    data = (out / "clip.rrd").read_bytes()
    assert data[:3] == b"RRF" and len(data) > 10_000
    assert all(f"/camera{name}".encode() in data for name in ("", "/rgb", "/depth", "/motion"))


def test_results_give_the_figures_to_sort_by(dataset: Path, tmp_path: Path) -> None:
    keys = ClipDataset(dataset).keys().to_pylist()
    clips = {key: {"category": "", "values": {"epe": float(n), "delta1": None}} for n, key in enumerate(keys)}
    (tmp_path / "row.json").write_text(json.dumps({"clips": clips}))
    source = open_source(dataset, None, read_results(tmp_path / "row.json"))
    assert [figure["name"] for figure in source.figures] == ["epe"] and source.figures[0]["higher"] is False
    assert [entry["values"] for entry in source.entries()] == [{"epe": float(n)} for n in range(4)]
    assert {entry["family"] for entry in source.entries()} == {"fall", "pendulum"}
    assert Results("a", "4d", {}).figures == {}


def test_the_command_serves_until_it_is_interrupted(dataset: Path) -> None:
    command = [sys.executable, "-m", "phys4d", "view", str(dataset)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        line = running.stdout.readline()
        address = re.fullmatch(r"4 clips at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends\)\n", line)
        assert address, line + running.stderr.read()
        with urllib.request.urlopen(address[1], timeout=20) as answer:
            assert b"phys4d view: clips" in answer.read()
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0 and running.stderr.read() == ""


def test_a_browser_filters_and_opens_the_clips(dataset: Path, generated: Path, serve: Any) -> None:
    server = serve(dataset, None, None)
    with chromium() as browser:
        opened = Opened(browser, server.address)
        page = opened.page
        assert page.locator(".card").count() == 4 and page.locator(".players canvas").count() == 3
        page.wait_for_function("[...document.querySelectorAll('.card img')].every((img) => img.naturalWidth > 0)")
        page.get_by_label("family").select_option("pendulum")
        assert page.locator(".card").count() == 2
        page.locator(".card").nth(1).click()
        page.wait_for_selector("html[data-opened='3']")
        assert page.locator(".title .caption").inner_text() == ClipDataset(dataset)[3].meta["caption"]
        assert opened.said == [] and all(url.startswith(server.address) for url in opened.requests if ":" in url[:6])
        other = Opened(browser, serve(generated, None, None).address)
        other.page.locator(".card").nth(1).click()
        other.page.wait_for_selector("html[data-opened='1']")
        assert other.page.locator(".players canvas").count() == 1
        assert not other.page.locator("canvas.cloud").is_visible()
        assert other.page.locator(".title .caption").inner_text() == "made <b>1</b>" and other.said == []
