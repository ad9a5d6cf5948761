"""Every division of the work over ranks trains as one process does: FSDP2, HSDP, context parallel, mixtures, ZeRO."""

import importlib.util
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Session = Callable[..., dict[str, Any]]
WriteRun = Callable[..., Path]
BEFORE = {"backbone": None, "pretrain": "backbone", "finetune": "pretrain"}
BEFORE |= {"reinforce": "finetune", "reward_gradient": "finetune"}
MESHES = {
    "fsdp": (4, "{}"),
    "hsdp": (4, "{replicate=2}"),
    "ulysses": (2, "{context=2, context_method='ulysses'}"),
    "ring": (2, "{context=2, context_method='ring'}"),
    "hsdp x ulysses": (4, "{replicate=2, context=2}"),
    "fsdp x ring": (4, "{context=2, context_method='ring', reshard_after_forward='always'}"),
    "zero-2": (2, "{strategy='deepspeed', zero_stage=2}"),
    "zero-3": (2, "{strategy='deepspeed'}"),
}
SIZES = ("model.width=64",)  # two heads
STEPS = 20


def arranged(mesh: str) -> tuple[int, str]:
    """Number of ranks and the table [parallel]; skips where the strategy's package is absent."""
    if mesh.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip('deepspeed is absent: pip install "phys4d[deepspeed]"')
    return MESHES[mesh]


@pytest.fixture(scope="module")
def models(session: Session, write_run: WriteRun, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder whose models the stages below start from."""
    folder = tmp_path_factory.mktemp("mesh") / "models"
    run = write_run(folder.with_suffix(".toml"), folder, clips, ["backbone", "pretrain", "finetune"])
    ended = session("train", run, *(word for size in SIZES for word in ("--set", size)))
    assert ended["codes"] == [0], ended["errors"]
    return folder


@pytest.fixture
def train(
    session: Session, write_run: WriteRun, clips: Path, models: Path, tmp_path: Path
) -> Callable[..., dict[str, list[float]]]:
    """Runs one stage on a mesh and returns what it logs, step by step."""

    def run(stage: str, name: str, *changes: str, ranks: int = 1, **options: Any) -> dict[str, list[float]]:
        before = BEFORE[stage]
        init = None if before is None else models / f"model-{before}"
        path = write_run(tmp_path / f"{name}.toml", tmp_path / name, clips, [stage], init)
        words = [word for change in (*SIZES, *changes) for word in ("--set", change)]
        ended = session("train", path, *words, ranks=ranks, **options)
        assert ended["codes"] == [-signal.SIGKILL if "kill" in options else 0] * ranks, ended["errors"]
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return {key: [line[key] for line in lines] for key in lines[0] if key not in ("time", "seconds", "stage")}

    return run


COMBINED = ("hsdp x ulysses", "finetune", "full", 1)  # the one that holds most at once
CASES = [
    pytest.param(*case, marks=() if case == COMBINED else pytest.mark.slow)
    for case in (
        *((mesh, "finetune", mode, micro) for mesh in MESHES for mode, micro in (("none", None), ("full", 1))),
        *((mesh, stage, "selective", 1) for mesh in MESHES for stage in ("backbone", "pretrain")),
    )
]


@pytest.mark.parametrize(("mesh", "stage", "checkpointing", "micro_batch"), CASES)
def test_losses_and_gradients_equal_those_of_one_process(
    train: Callable[..., dict[str, list[float]]], mesh: str, stage: str, checkpointing: str, micro_batch: int | None
) -> None:
    ranks, table = arranged(mesh)
    common = (f"{stage}.batch=4", f"{stage}.loop={{steps={STEPS}, log_every=1}}")
    changes = [f"parallel={table}", f"checkpointing={checkpointing}"]
    if checkpointing == "full" and not mesh.startswith("zero"):  # which keeps moments on the device
        changes.append(f'{stage}.optimizer.offload=["moments"]')
    changes += [] if micro_batch is None else [f"{stage}.micro_batch={micro_batch}"]
    one, many = train(stage, "one", *common), train(stage, "many", *common, *changes, ranks=ranks)
    assert many["step"] == one["step"] == list(range(1, STEPS + 1)) and many.keys() == one.keys()
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert many["grad_norm"][:5] == pytest.approx(one["grad_norm"][:5], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_reinforce_draws_and_rewards_the_same_samples(
    train: Callable[..., dict[str, list[float]]], tmp_path: Path, mesh: str
) -> None:
    """One update; later ones start from weights that AdamW's division has made differ."""
    ranks, table = arranged(mesh)
    common = ("reinforce.group=3", "reinforce.conditions=4", "reinforce.flow_matching_batch=4")
    common += ("reinforce.loop={steps=1, log_every=1}", "reinforce.stochastic_steps=1")
    kept = {name: tmp_path / f"rewards-{name}" for name in ("one", "many")}
    for folder in kept.values():
        folder.mkdir()
    changes = (f"parallel={table}", "reinforce.micro_batch=2", "checkpointing=full")
    one = train("reinforce", "one", *common, record=str(kept["one"]))
    many = train("reinforce", "many", *common, *changes, ranks=ranks, record=str(kept["many"]))
    for name in ("reward", "reward_group_std", "grad_norm", "kl", "ratio"):
        assert many[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    drawn = {name: _by_key(folder) for name, folder in kept.items()}
    assert drawn["one"].keys() == drawn["many"].keys() and len(drawn["one"]) == 12
    for key, (latents, reward) in drawn["one"].items():
        torch.testing.assert_close(drawn["many"][key][0], latents, rtol=1e-4, atol=1e-5)
        assert drawn["many"][key][1] == pytest.approx(reward, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [mesh for mesh in MESHES if mesh != "zero-3"])  # which is refused
@pytest.mark.parametrize("matching", [0.0, 1.0])
def test_the_reward_gradient_is_that_of_one_process(
    train: Callable[..., dict[str, list[float]]], mesh: str, matching: float
) -> None:
    """Without the diffusion loss, too, where the last loss evaluates the transformer once a denoising step."""
    ranks, table = arranged(mesh)
    common = ("reward_gradient.conditions=4", f"reward_gradient.flow_matching={matching}")
    common += ("reward_gradient.flow_matching_batch=4", "reward_gradient.gradient_steps=3")
    one = train("reward_gradient", "one", *common)
    changes = (f"parallel={table}", "checkpointing=full", "reward_gradient.micro_batch=1")
    many = train("reward_gradient", "many", *common, *changes, ranks=ranks)
    for name in ("reward", "grad_norm"):
        assert many[name] == pytest.approx(one[name], rel=1e-4), name


def _by_key(folder: Path) -> dict[tuple[Any, ...], tuple[torch.Tensor, float]]:
    """Latents and reward of each sample, by its key."""
    found = {}
    for path in folder.glob("*.pt"):
        part = torch.load(path)
        for i, key in enumerate(part["rng_keys"]):
            found[tuple(key)] = part["latents"][i], float(part["reward"][i])
    return found
