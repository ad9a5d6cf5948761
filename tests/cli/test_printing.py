"""Every line of the program can be printed on any terminal: what its encoding lacks is escaped."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.files.shards import ShardWriter

RUN = """folder = "{out}"
stages = ["backbone"]
model = {{ width = 32, layers = 2, taps = [0, 1], sampling_steps = 2 }}
[backbone]
data = "{data}"
batch = 2
optimizer = {{ learning_rate = 1e-3 }}
loop = {{ steps = 1 }}
"""


class Terminal:
    """Standard output and error of a terminal with this encoding."""

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
        for name, stream in self.streams.items():
            monkeypatch.setattr(sys, name, stream)

    def text(self, name: str) -> str:
        """What has been printed on one of them."""
        self.streams[name].flush()
        return self.streams[name].buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset of two clips in a folder with a Japanese name and a control character."""
    camera = [[[20, 0, 8], [0, 20, 8], [0, 0, 1]]] * 5
    with ShardWriter(tmp_path / "データ\x1b[2J") as writer:
        for key in ("a", "b"):
            members = {
                "mp4": encode_mp4(np.zeros((5, 16, 16, 3), np.uint8), 8),
                "json": json.dumps({"caption": "كرة 🏀\0\n", "intrinsics": camera}).encode(),
            }
            writer.add(key, members, 5, 8, 16, 16)
    return tmp_path / "データ\x1b[2J"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_paths_are_escaped(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    shown = f"{tmp_path}/\\u30c7\\u30fc\\u30bf\\x1b[2J"
    picture = data / "絵.png"
    run = tmp_path / "走.toml"
    run.write_text(RUN.format(out=tmp_path / "出力", data=str(data).replace("\x1b", "\\u001b")), encoding="utf-8")
    for arguments, code, name, line in (
        (["data", "verify", str(data)], 0, "stdout", f"{shown}: all clips are whole\n"),
        (["data", "sheet", str(data), "--out", str(picture)], 0, "stdout", f"{shown}/\\u7d75.png: 2 clips\n"),
        (["data", "verify", f"{data}無"], 2, "stderr", f"phys4d: error: {shown}\\u7121: no such dataset"),
        (["train", str(run), "--dry-run"], 0, "stdout", f"{tmp_path}/\\u8d70.toml: valid: would run backbone in"),
    ):
        with monkeypatch.context() as patch:
            terminal = Terminal(encoding, patch)
            assert main(arguments) == code
            assert terminal.text(name).startswith(line)
    assert picture.is_file()


def test_problems_found_by_verify_are_escaped(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = data / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:100])
    with monkeypatch.context() as patch:
        terminal = Terminal("latin-1", patch)
        assert main(["data", "verify", str(data)]) == 2
        assert terminal.text("stdout").startswith("shard-000000.tar: clip a: mp4 is truncated: 0 of ")
        assert terminal.text("stderr").splitlines()[-1].endswith("\\x1b[2J: 4 problems: write this dataset again")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nothing_reads_any_more_ends_the_command_quietly(data: Path, unbuffered: str) -> None:
    """As with `| head -0`: no traceback, also at the end of the interpreter."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "phys4d", "data", "stats", str(data)]
    ended = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": unbuffered}
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_another_pipe_that_breaks_is_an_error(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    def breaks(options: object) -> int:
        raise BrokenPipeError("a socket")

    monkeypatch.setattr("phys4d.commands.data._stats", breaks)
    monkeypatch.setattr(sys, "stdout", open(os.devnull, "w"))  # noqa: SIM115
    with pytest.raises(BrokenPipeError, match="a socket"):
        main(["data", "stats", str(data)])
