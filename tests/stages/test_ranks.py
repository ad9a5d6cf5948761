"""Two ranks (gloo, FSDP2) train every stage as one process does, and go on with each other's checkpoints."""

import importlib.util
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.reproducible import reproducible

Session = Callable[..., dict[str, Any]]
WriteRun = Callable[..., Path]
BEFORE = {"codec": None, "backbone": None, "pretrain": "backbone", "finetune": "pretrain"}
BEFORE |= {"reinforce": "finetune", "reward_gradient": "finetune"}
ADAPTER = "adapters/reinforce/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def models(session: Session, write_run: WriteRun, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder whose models the stages below start from."""
    folder = tmp_path_factory.mktemp("ranks") / "models"
    run = write_run(folder.with_suffix(".toml"), folder, clips, ["backbone", "pretrain", "finetune"])
    ended = session("train", run)
    assert ended["codes"] == [0], ended["errors"]
    return folder


@pytest.fixture
def train(session: Session, write_run: WriteRun, clips: Path, models: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs one stage from the model before it on so many ranks, and returns the run folder."""

    def run(stage: str, name: str, *changes: str, ranks: int, resume: bool = False, **options: Any) -> Path:
        before = BEFORE[stage]
        init = None if before is None else models / f"model-{before}"
        path = write_run(tmp_path / f"{name}.toml", tmp_path / name, clips, [stage], init)
        words = [word for change in changes for word in ("--set", change)]
        ended = session("train", path, *words, *(["--resume"] if resume else []), ranks=ranks, **options)
        expected = -signal.SIGKILL if "kill" in options else 0
        assert ended["codes"] == [expected] * ranks, ended["errors"]
        return tmp_path / name

    return run


def logged(folder: Path) -> dict[str, list[float]]:
    """Every logged figure that does not depend on the clock, step by step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines] for name in reproducible(lines[0]) if name != "stage"}


SHARED = [
    ("codec", 2), ("backbone", 2),
    *(pytest.param(stage, 2, marks=pytest.mark.slow) for stage in ("pretrain", "finetune")),
    pytest.param("finetune", 6, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "batch"), SHARED)
def test_losses_of_two_ranks_equal_those_of_one(train: Callable[..., Path], stage: str, batch: int) -> None:
    """`finetune` reads every other clip with its heads: of 2 the second rank reads none, of 6 the first reads more."""
    changes = (f"{stage}.batch={batch}", f"{stage}.loop={{steps=20, log_every=1}}")
    changes += ("model.kind=small",) if stage == "codec" else ()
    folders = [train(stage, f"{ranks}", *changes, ranks=ranks) for ranks in (1, 2)]
    one, two = (logged(folder) for folder in folders)
    assert one["step"] == two["step"] == list(range(1, 21)) and one.keys() == two.keys()
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name in one:
        if "loss" in name:  # a scale that is wrong shows at once; later an L1 term may take its kink on the other side
            assert two[name][:5] == pytest.approx(one[name][:5], rel=1e-5), name
        if name.startswith("grad_norm."):
            assert two[name][:5] == pytest.approx(one[name][:5], rel=1e-4), name
    if stage == "backbone":  # half of the clips and of the state on each rank, but for what is not of any clip
        flops = [json.loads((f / "provenance.json").read_text())["flops_per_step_and_rank"][stage] for f in folders]
        assert flops[1] == pytest.approx({name: count / 2 for name, count in flops[0].items()}, rel=1e-3)
        lines = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in folders]
        for kind in ("gradients", "moments", "ema"):
            assert lines[1][f"memory.{kind}"] == pytest.approx(lines[0][f"memory.{kind}"] / 2, rel=0.1), kind


@pytest.mark.parametrize(
    ("drawn", "within", "guidance"),
    [(1, 1e-4, 1), pytest.param(2, 1e-3, 1, marks=pytest.mark.slow), pytest.param(1, 1e-4, 3, marks=pytest.mark.slow)],
)
def test_reinforce_on_two_ranks_is_that_of_one(
    train: Callable[..., Path], tmp_path: Path, drawn: int, within: float, guidance: int
) -> None:
    """Each rank draws groups of its own; together they are the groups of one process, and teach the same.

    From the second optimizer step on AdamW divides every gradient by its own size: an entry that is off by the rounding
    of its largest neighbours takes a full step in a slightly wrong proportion, so that weights differ by about the root
    of the rounding error, 3e-4, whoever trains. The first step is the sign of the gradient alone.
    """
    changes = ("reinforce.group=3", "reinforce.conditions=4", "reinforce.loop={steps=1, log_every=1}")
    changes += (f"reinforce.stochastic_steps={drawn}", f"reinforce.guidance={guidance}")
    kept = {ranks: tmp_path / f"rewards-{ranks}" for ranks in (1, 2)}
    for folder in kept.values():
        folder.mkdir()
    one, two = (train("reinforce", f"{ranks}", *changes, ranks=ranks, record=str(kept[ranks])) for ranks in (1, 2))
    whole = torch.load(kept[1] / "0-0.pt")
    parts = [torch.load(kept[2] / f"0-{rank}.pt") for rank in (0, 1)]
    assert [part["rng_keys"] for part in parts] == [whole["rng_keys"][:6], whole["rng_keys"][6:]]
    assert torch.equal(torch.cat([part["video"] for part in parts]), whole["video"])
    torch.testing.assert_close(torch.cat([part["latents"] for part in parts]), whole["latents"])
    torch.testing.assert_close(torch.cat([part["reward"] for part in parts]), whole["reward"], rtol=1e-5, atol=0)
    spread = whole["reward"].view(4, 3).std(1)
    assert (spread > 1e-3).all()  # so that every group teaches something
    for name in ("reward", "reward_group_std", "grad_norm", "kl", "ratio"):
        assert logged(two)[name] == pytest.approx(logged(one)[name], rel=1e-4), name
    ours, theirs = (load_file(folder / "model-reinforce" / ADAPTER) for folder in (two, one))
    moved = torch.cat([theirs[name].flatten() for name in theirs if "lora_B" in name])  # they start from zero
    off = torch.cat([(ours[name] - theirs[name]).flatten() for name in theirs if "lora_B" in name])
    assert moved.norm() > 0 and off.norm() <= within * moved.norm()


def test_the_reward_gradient_of_two_ranks_is_that_of_one(train: Callable[..., Path]) -> None:
    """With blocks that are computed again, of which the reward's must find the policy off; two updates."""
    changes = ("reward_gradient.conditions=4", "reward_gradient.flow_matching_batch=4")
    alone = train("reward_gradient", "1", *changes, ranks=1)
    again = ("checkpointing=full", "reward_gradient.micro_batch=1")
    one, two = (logged(folder) for folder in (alone, train("reward_gradient", "2", *changes, *again, ranks=2)))
    assert one["step"] == two["step"] == [1, 2]
    for name in ("reward", "grad_norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name


@pytest.mark.parametrize(("first", "then"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_checkpoint_of_some_ranks_is_resumed_on_another_number(
    train: Callable[..., Path], first: int, then: int
) -> None:
    """Against the run of one process that nothing happened to."""
    loop = "finetune.loop={steps=8, log_every=1, checkpoint_every=3}"
    whole = logged(train("finetune", "whole", loop, ranks=1))
    train("finetune", "changed", loop, ranks=first, kill={"stage": "finetune", "step": 5})
    changed = logged(train("finetune", "changed", loop, ranks=then, resume=True))
    assert changed["step"] == whole["step"]
    for name in ("loss", "grad_norm"):
        assert changed[name] == pytest.approx(whole[name], rel=1e-5), name


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bf16_losses_stay_close_to_fp32(train: Callable[..., Path], ranks: int) -> None:
    changes = ("backbone.loop={steps=20, log_every=1}", "precision=bf16")
    exact = logged(train("backbone", "exact", changes[0], ranks=1))["loss"]
    rounded = logged(train("backbone", "rounded", *changes, ranks=ranks))["loss"]
    assert rounded != exact and rounded == pytest.approx(exact, rel=2e-2)


def test_in_bf16_the_policy_that_is_trained_is_the_one_that_drew(train: Callable[..., Path]) -> None:
    """The run would stop at its first probability ratio."""
    folder = train("reinforce", "bf16", "precision=bf16", "reinforce.loop={steps=1, log_every=1}", ranks=1)
    assert logged(folder)["ratio"] == pytest.approx([1.0], abs=0.05)


RELEASED = ["pretrain", "finetune", "reinforce"]


SPLIT = [("fp32", "{}"), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
    ("bf16", "{}"), ("bf16", "{strategy='deepspeed'}"), ("fp32", "{strategy='deepspeed', zero_stage=2}")
))]  # fmt: skip


@pytest.mark.parametrize(("precision", "table"), SPLIT)
def test_a_released_folder_trains_on_two_ranks_as_on_one(
    session: Session, write_released_run: WriteRun, tmp_path: Path, precision: str, table: str
) -> None:
    """All three phases over the published layout, each evaluated by all ranks. Heads and adapters start equal on every
    rank, so the first losses of a stage agree to rounding; AdamW then amplifies it."""
    if "deepspeed" in table and importlib.util.find_spec("deepspeed") is None:
        pytest.skip('deepspeed is absent: pip install "phys4d[deepspeed]"')
    logs, tables = [], []
    for ranks in (1, 2):
        run = write_released_run(tmp_path / f"{ranks}.toml", tmp_path / f"{ranks}", RELEASED)
        changes = ("--set", f"precision={precision}", "--set", "evaluate.ranked=0", "--set", f"parallel={table}")
        ended = session("train", run, *changes, ranks=ranks)
        assert ended["codes"] == [0] * ranks, ended["errors"]
        lines = [json.loads(line) for line in (tmp_path / f"{ranks}" / "metrics.jsonl").read_text().splitlines()]
        logs.append([(line["stage"], line["step"], line.get("loss", line.get("reward"))) for line in lines])
        tables.append(json.loads((tmp_path / f"{ranks}" / "summary.json").read_text())["stages"])
    one, two = logs
    assert [line[:2] for line in two] == [line[:2] for line in one] == [(s, n) for s in RELEASED for n in (1, 2)]
    assert two[0][2] == pytest.approx(one[0][2], rel=1e-5)
    within = 1e-4 if precision == "fp32" else 2e-2
    assert [line[2] for line in two] == pytest.approx([line[2] for line in one], rel=within)
    assert tables[1].keys() == tables[0].keys() == set(RELEASED)
    for stage in RELEASED:
        assert tables[1][stage]["absrel"] == pytest.approx(tables[0][stage]["absrel"], rel=within)
