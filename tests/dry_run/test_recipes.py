"""The recipes for clusters: run files that are valid at the size they are for, and the batch script."""

import os
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from phys4d.engine.config import load_toml
from phys4d.engine.distributed.mesh import mesh_shape
from phys4d.stages.preflight import check_divided
from phys4d.stages.run_file import RunConfig

RECIPES = Path(str(files("phys4d.recipes")))
STAND_INS = {
    "scontrol": '#!/bin/bash\nif [ "$1" = show ]; then echo first; echo second; else echo "$@" >> "$LOG"; fi\n',
    "srun": '#!/bin/bash\nshift\nSLURM_PROCID=3 SLURM_LOCALID=1 exec "$@"\n',
    "python": '#!/bin/bash\necho "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR: $*" >> "$LOG"\n'
    "trap 'sleep 0.3; echo checkpoint >> \"$LOG\"; exit 3' USR1\n"
    '[ "$CODE" = wait ] || exit "$CODE"\nkill -USR1 "$SCRIPT"\nwhile true; do sleep 0.05; done\n',
}


@pytest.mark.parametrize(
    ("name", "world_size", "mesh"),
    [
        ("wan2.2-5b-1-gpu", 1, (1, 1, 1)),
        ("wan2.2-5b-1-node", 8, (1, 8, 1)),
        ("cogvideox-5b", 8, (1, 8, 1)),
        ("cogvideox-5b-long-clips", 8, (1, 1, 8)),
        ("opensora-1.2", 8, (1, 8, 1)),
        ("wan2.1-1.3b", 1, (1, 1, 1)),
        ("wan2.1-14b", 8, (1, 8, 1)),
        ("wan2.2-5b-8-nodes", 64, (8, 8, 1)),
        ("wan2.2-5b-long-clips", 8, (1, 1, 8)),
    ],
)
def test_a_recipe_is_valid_at_its_size(name: str, world_size: int, mesh: tuple[int, int, int]) -> None:
    config = load_toml(RECIPES / f"{name}.toml", RunConfig)
    check_divided(config, world_size)
    climbing = load_toml(RECIPES / f"{name}.toml", RunConfig, ['stages=["pretrain","finetune","reward_gradient"]'])
    check_divided(climbing, world_size)
    assert climbing.table("reward_gradient").data == climbing.table("reinforce").data
    shape = mesh_shape(config.parallel, world_size)
    assert (shape.replicate, shape.shard, shape.context) == mesh
    assert config.stages == ("pretrain", "finetune", "reinforce")


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [("0", "0", False), ("2", "0", False), ("3", "0", True), ("wait", "1", True)]
)
def test_the_batch_script_requeues_a_run_that_wrote_a_checkpoint(
    tmp_path: Path, code: str, restarts: str, requeued: bool
) -> None:
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "CODE": code, "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "64", "SLURM_JOB_NODELIST": "nodes", "SLURM_RESTART_COUNT": restarts,
    }  # fmt: skip
    script = f'export SCRIPT=$$; source {RECIPES / "wan2.2-5b.sbatch"} run.toml'
    done = subprocess.run(["bash", "-c", script], env=environment, timeout=60, check=False)
    resumed = " --resume" if restarts == "1" else ""
    lines = log.read_text().splitlines()
    assert lines[0] == f"3 1 64 first: -m phys4d train run.toml{resumed}"
    assert done.returncode == (3 if code == "wait" else int(code))
    assert ("requeue 7" in lines) == requeued
    assert ("checkpoint" in lines) == (code == "wait")
