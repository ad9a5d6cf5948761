"""A Wan, and a CogVideoX, whose tokens are divided over three processes give the results and gradients of one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from phys4d.kernels.attention import part_of

PROGRAM = Path(__file__).with_name("divided_ranks.py")
_spec = importlib.util.spec_from_file_location("divided_ranks", PROGRAM)
assert _spec is not None and _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(program)
RANKS = 3
CASES = [*program.CASES, *program.JOINT]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, repository):
    """What every rank found."""
    folder = tmp_path_factory.mktemp("divided")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    done = subprocess.run(
        [sys.executable, *torchrun, str(PROGRAM), str(folder)],
        cwd=repository, capture_output=True, text=True, timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(RANKS)]


def one_process(name):
    """What one process finds, and how many tokens are divided."""
    if name in program.CASES:
        return program.run(*program.CASES[name]), 40
    return program.run_joint(*program.JOINT[name]), 40 + program.JOINT[name][1]


@pytest.mark.parametrize("name", CASES)
def test_every_rank_gets_the_result_of_one_process(ranks, name):
    one, count = one_process(name)
    for rank, found in enumerate(ranks):
        torch.testing.assert_close(found[name]["out"], one["out"], rtol=1e-4, atol=1e-5)
        for k in range(2):  # divided behind all blocks but the last
            own, part = part_of(count, rank, RANKS), found[name][f"block {k}"]
            part = part[0] if isinstance(part, tuple) else part
            torch.testing.assert_close(part, one[f"block {k}"][:, own], rtol=1e-4, atol=1e-5)
        last = found[name]["block 2"]
        last = torch.cat(last[::-1], 1) if isinstance(last, tuple) else last
        torch.testing.assert_close(last, one["block 2"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_the_loss_that_every_rank_computes_average_to_those_of_one(ranks, name):
    one, _ = one_process(name)
    gradients = [key for key in one if key.startswith("gradient of ")]
    assert len(gradients) > 75
    assert all(found[name].keys() == one.keys() for found in ranks)
    for key in gradients:
        scale = float(one[key].abs().max())
        # of a bias of keys that are not rotated it is 0 but for rounding
        close = {"rtol": 1e-3, "atol": 1e-4 * scale + 1e-6, "msg": lambda text, key=key: f"{key}: {text}"}
        torch.testing.assert_close(sum(found[name][key] for found in ranks) / RANKS, one[key], **close)


def test_what_a_group_cannot_serve_is_refused_before_anything_is_sent(ranks):
    for found in ranks:
        said = found["refusals"]
        assert said["family"] == (
            "group: divides the tokens of WanTransformer3DModel and CogVideoXTransformer3DModel, "
            "not of LTXVideoTransformer3DModel"
        )
        assert said["parts"] == "group: needs all parts, attention and norm"
        assert said["processor"].startswith("group: blocks.1.attn1 is left alone: its processor is not diffusers' own")
        assert said["left as it was"] == "WanAttnProcessor"
        assert said["mask"].endswith("with a group the model's own code cannot serve: an attention mask")
        assert said["hooked norm"].startswith(
            "transformer_blocks.1: with a group the model's own code cannot serve: norm1: "
        )
        assert said["served"] == "not refused"
