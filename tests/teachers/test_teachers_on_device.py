"""Teachers on a device type other than the CPU: all of the network and its inputs go there, and depth comes back."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils import cpp_extension

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from tests.teachers import test_video_depth_anything as video_depth
from tests.teachers.test_sea_raft import saved

STAND_IN = Path(__file__).parents[1] / "stages" / "stand_in.py"


@pytest.mark.slow
def test_teachers_label_on_the_accelerator_that_torch_finds(
    write_clips: Callable[..., Path], save_depth_anything: Callable[[Path, str], None], tmp_path: Path
) -> None:
    library = tmp_path / "stand_in.so"
    include = [f"-I{path}" for path in cpp_extension.include_paths()]
    link = [word for path in cpp_extension.library_paths() for word in (f"-L{path}", f"-Wl,-rpath,{path}")]
    command = ["c++", "-std=c++20", "-O0", "-shared", "-fPIC", *include, STAND_IN.with_suffix(".cpp"), *link]
    subprocess.run([*map(str, command), "-ltorch_cpu", "-lc10", "-o", str(library)], check=True)
    save_depth_anything(tmp_path / "weights", "metric")
    video_depth.made(tmp_path / "video-depth", video_depth.METRIC)
    file = saved(tmp_path / "sea-raft.safetensors")
    sea_raft = ["--flow", "sea-raft", "--set", f"flow.weights={file}", "--set", "flow.updates=1"]
    videos, scenes = write_clips("videos", 2, 2, truth=False), write_clips("scenes", 1, 2)
    teachers = {
        "small": ["--scenes", scenes, "--steps", 3, "--set", "depth.width=4"],
        "depth-anything": ["--weights", tmp_path / "weights"],
        "video-depth-anything": ["--weights", tmp_path / "video-depth", "--set", "depth.resolution=28", *sea_raft],
    }
    for name, options in teachers.items():
        words = [*map(str, ["label", "--videos", videos, "--teacher", name, *options])]
        device, cpu = tmp_path / f"{name}-device", tmp_path / f"{name}-cpu"
        program = [sys.executable, str(STAND_IN), str(library), *words, "--out", str(device)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(program, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert main([*words, "--out", str(cpu)]) == 0
        there, here = (ClipDataset(folder)[1] for folder in (device, cpu))
        for sample, expected in ((there, "standin"), (here, "cpu")):
            records = [sample.meta["provenance"]["labels"][kind] for kind in ("depth", "flow")]
            assert {record["device"] for record in records if "device" in record} == {expected}
        np.testing.assert_allclose(there.arrays["depth"], here.arrays["depth"], rtol=1e-3, atol=1e-5)  # metres
