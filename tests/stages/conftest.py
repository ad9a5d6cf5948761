"""A dataset small enough to train on in a test: squares that slide over a wall, with exact truth."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import cpp_extension

from phys4d.cli import main
from phys4d.engine.data.clip import blob, video
from phys4d.engine.data.files.shards import ShardWriter
from tests.stages.released_run import run_text

HERE = Path(__file__).parent
torch.set_num_threads(1)  # as in sessions.py: weights are compared bit by bit, and sums depend on it
STAGES = ["backbone", "pretrain", "finetune", "reinforce"]
RUN = """
folder = "{folder}"
stages = {stages}
{init}
[model]
width = 32
layers = 2
taps = [0, 1]
heads = {{ width = 8 }}
sampling_steps = 2

[codec]
data = "{data}"
batch = 2
optimizer = {{ learning_rate = 1e-3, ema = 0.9 }}
loop = {{ steps = 3, log_every = 1 }}

[backbone]
data = "{data}"
batch = 2
optimizer = {{ learning_rate = 1e-3, ema = 0.9 }}
loop = {{ steps = 3, log_every = 1 }}

[pretrain]
data = "{data}"
batch = 2
optimizer = {{ learning_rate = 1e-3 }}
loop = {{ steps = 3, log_every = 1 }}

[finetune]
data = "{data}"
batch = 4
rank = 2
optimizer = {{ learning_rate = 1e-3 }}
loop = {{ steps = 3, log_every = 1 }}

[reinforce]
data = "{data}"
rank = 2
conditions = 2
group = 2
steps = 3
stochastic_steps = 2
flow_matching_batch = 2
optimizer = {{ learning_rate = 1e-3 }}
loop = {{ steps = 2, log_every = 1 }}

[reward_gradient]
data = "{data}"
rank = 2
conditions = 2
steps = 3
gradient_steps = 2
flow_matching_batch = 2
optimizer = {{ learning_rate = 1e-3 }}
loop = {{ steps = 2, log_every = 1 }}

[evaluate]
data = "{data}"
scenes = 4
samples = 2
shown = 2
batch = 2
"""
FRAMES, SIZE = 5, 16


def enlarged(array: np.ndarray, axes: tuple[int, int], by: int) -> np.ndarray:
    """Every row and column `by` times."""
    return array.repeat(by, axes[0]).repeat(by, axes[1])


def sliding_square(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A square at 1 m that slides one pixel a frame before a wall at 2 m: video and its exact arrays."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(1, 8, 2)
    step = int(rng.choice([-1, 1])) if column > FRAMES else 1
    colour = rng.integers(128, 255, 3)
    frames = np.full((FRAMES, SIZE, SIZE, 3), 40, np.uint8)
    depth = np.full((FRAMES, SIZE, SIZE), 2.0, np.float32)
    instance = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    motion = np.zeros((3, FRAMES - 1, SIZE, SIZE), np.float32)
    for t in range(FRAMES):
        at = (t, slice(row, row + 5), slice(column + step * t, column + step * t + 5))
        frames[at], depth[at], instance[at] = colour, 1.0, 1
        if t < FRAMES - 1:
            motion[(0, *at)] = step
    moving = instance[:-1] > 0
    still = np.ones_like(moving)
    covered = ~moving & (instance[1:] > 0)
    return frames, {
        "depth": depth, "motion": motion, "depth_valid": np.ones_like(depth, bool), "flow_valid": still,
        "dz_valid": still, "visible": ~covered, "moving": moving, "instance": instance,
    }  # fmt: skip


@pytest.fixture(scope="session")
def write_clips() -> Callable[..., Path]:
    """Writes a dataset of `count` such clips; `replaced`: other members for some; `crop`: frames and rows of some;
    `scale`: enlarged so many times."""

    def write(
        folder: Path,
        replaced: dict[int, dict[str, bytes]] | None = None,
        crop: dict[int, tuple[int, int]] | None = None,
        scale: int = 1,
        count: int = 8,
    ) -> Path:
        intrinsics = [[[20.0 * scale, 0, 8 * scale], [0, 20 * scale, 8 * scale], [0, 0, 1]]] * FRAMES
        with ShardWriter(folder) as writer:
            for seed in range(count):
                frames, arrays = sliding_square(seed)
                if scale > 1:
                    frames = enlarged(frames, (1, 2), scale)
                    arrays = {name: enlarged(array, (-2, -1), scale) for name, array in arrays.items()}
                    arrays["motion"][:2] *= scale
                length, rows = (crop or {}).get(seed, (FRAMES, SIZE * scale))
                meta = {
                    "caption": f"a square slides {seed}", "fps": 24, "frames": length, "height": rows,
                    "width": SIZE * scale,
                    "intrinsics": intrinsics, "depth_kind": "metric",
                }  # fmt: skip
                members = {
                    "mp4": video.encode_mp4(frames[:length, :rows], 24),
                    "truth": blob.encode(arrays, blob.QUANTISATION),
                    "json": json.dumps(meta).encode(),
                }
                writer.add(f"clip{seed}", members | (replaced or {}).get(seed, {}), length, 24, rows, SIZE * scale)
        return folder

    return write


@pytest.fixture(scope="session")
def clips(write_clips: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of eight sound clips."""
    return write_clips(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes a run file of these stages into `path`; the run goes to `folder`."""

    def write(path: Path, folder: Path, data: Path, stages: list[str], init: Path | None = None) -> Path:
        line = f'init = "{init}"' if init else ""
        path.write_text(RUN.format(folder=folder, data=data, stages=json.dumps(stages), init=line))
        return path

    return write


@pytest.fixture
def refused(write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The line that `phys4d train` ends with, without what every such line begins with; nothing else was printed but
    how a stage gets its latents."""

    def start(
        data: Path, *changes: str, stages: list[str] = STAGES, init: Path | None = None, words: tuple[str, ...] = ()
    ) -> str:
        run = write_run(tmp_path / "run.toml", tmp_path / "out", data, stages, init)
        capsys.readouterr()
        assert main(["train", str(run), *words, *(word for change in changes for word in ("--set", change))]) == 2
        captured = capsys.readouterr()
        *before, last = captured.err.splitlines()
        assert captured.out == "" and captured.err.endswith("\n") and last.startswith("phys4d: error: ")
        assert all(": every step encodes its clips (" in line for line in before)
        return last.removeprefix("phys4d: error: ")

    return start


@pytest.fixture(scope="session")
def large_clips(write_clips: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of 64 x 64 pixels, which a released model takes."""
    return write_clips(tmp_path_factory.mktemp("data") / "large", scale=4)


@pytest.fixture(scope="session")
def write_released_run(released: Path, large_clips: Path) -> Callable[..., Path]:
    """Writes a run file of these stages, from the released folder or another model, on the large clips."""

    def write(path: Path, folder: Path, stages: list[str], init: Path | None = None) -> Path:
        table = {"scenes": 3, "shown": 2, "batch": 1}
        path.write_text(run_text(folder, init or released, large_clips, stages=stages, evaluate=table))
        return path

    return write


@pytest.fixture(scope="session")
def cached(large_clips: Path, released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The large clips with the cache of the released model in their folder."""
    folder = shutil.copytree(large_clips, tmp_path_factory.mktemp("cached") / "large")
    assert main(["data", "encode", str(folder), "--model", str(released)]) == 0
    return folder


@pytest.fixture(scope="session")
def tiny_cached(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small clips with the cache of the tiny model in their folder."""
    folder = shutil.copytree(clips, tmp_path_factory.mktemp("cached") / "clips")
    assert main(["data", "encode", str(folder), "--model", "tiny"]) == 0
    return folder


@pytest.fixture(scope="session")
def session() -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs `phys4d` with these arguments in a process, or several, of its own: see sessions.py."""
    program, root, pipe = "tests.stages.sessions", Path(__file__).parents[2], subprocess.PIPE
    with subprocess.Popen([sys.executable, "-m", program], cwd=root, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None and server.stdout is not None

        def run(*arguments: object, **options: Any) -> dict[str, Any]:
            server.stdin.write(json.dumps({"arguments": list(map(str, arguments)), **options}) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield run
        server.stdin.close()


@pytest.fixture(scope="session")
def on_device(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Runs a `phys4d` command on the stand-in device, which it compiles first."""
    library = tmp_path_factory.mktemp("device") / "stand_in.so"
    include = [f"-I{path}" for path in cpp_extension.include_paths()]
    link = [word for path in cpp_extension.library_paths() for word in (f"-L{path}", f"-Wl,-rpath,{path}")]
    command = ["c++", "-std=c++20", "-O0", "-shared", "-fPIC", *include, HERE / "stand_in.cpp", *link]
    subprocess.run([*map(str, command), "-ltorch_cpu", "-lc10", "-o", str(library)], check=True)

    def run(*arguments: object) -> None:
        program = [sys.executable, HERE / "stand_in.py", library, *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([*map(str, program)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    return run
