"""A Wan whose tokens are divided over three processes gives the results and gradients of one."""

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


@pytest.mark.parametrize("name", program.CASES)
def test_every_rank_gets_the_result_of_one_process(ranks, name):
    one = program.run(*program.CASES[name])
    for rank, found in enumerate(ranks):
        torch.testing.assert_close(found[name]["out"], one["out"], rtol=1e-4, atol=1e-5)
        for k in range(2):  # divided behind all blocks but the last
            own = part_of(40, rank, RANKS)
            torch.testing.assert_close(found[name][f"block {k}"], one[f"block {k}"][:, own], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[name]["block 2"], one["block 2"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", program.CASES)
def test_gradients_of_the_loss_that_every_rank_computes_average_to_those_of_one(ranks, name):
    one = program.run(*program.CASES[name])
    gradients = [key for key in one if key.startswith("gradient of ")]
    assert len(gradients) > 90
    for key in gradients:
        scale = float(one[key].abs().max())
        close = {"rtol": 1e-3, "atol": 1e-4 * scale + 1e-7, "msg": lambda text, key=key: f"{key}: {text}"}
        torch.testing.assert_close(sum(found[name][key] for found in ranks) / RANKS, one[key], **close)


def test_what_a_group_cannot_serve_is_refused_before_anything_is_sent(ranks):
    for found in ranks:
        said = found["refusals"]
        assert said["family"] == "group: divides the tokens of WanTransformer3DModel, not of LTXVideoTransformer3DModel"
        assert said["parts"] == "group: needs all parts, attention and norm"
        assert said["processor"].startswith("group: blocks.1.attn1 is left alone: its processor is not diffusers' own")
        assert said["left as it was"] == "WanAttnProcessor"
        assert said["mask"].endswith("with a group the model's own code cannot serve: an attention mask")
        assert said["served"] == "not refused"
