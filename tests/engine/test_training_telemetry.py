"""What a step costs, as logged: rates, MFU, waits, memory by kind and gradient norms, each by hand."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from phys4d.engine.training import telemetry as module
from phys4d.engine.training.flops import Peak
from phys4d.engine.training.loop import LoopConfig
from phys4d.engine.training.sample_order import Uncounted
from phys4d.engine.training.telemetry import Telemetry, Wait, Workload
from tests.engine.two_layers import BATCH, WIDTH, Settings, Two, run_two

PRODUCT = 2 * BATCH * WIDTH * WIDTH


def test_rates_waits_and_memory(tmp_path: Path) -> None:
    waited = Wait()  # a quarter of a second in each step

    def amounts() -> dict[str, float]:
        steps = round(waited.seconds / 0.25)
        return {"clips": 8 * steps, "tokens": 512 * steps}

    lines, two = run_two(tmp_path / "run", workload=Workload(amounts, waited))
    for line in lines:
        assert line["speed.clips"] == pytest.approx(8 / line["seconds"])
        assert line["speed.tokens"] == pytest.approx(512 / line["seconds"])
        assert line["loader.seconds"] == pytest.approx(0.25, abs=0.01)
        assert line["loader.share"] == pytest.approx(line["loader.seconds"] / line["seconds"])
        weights = 4 * (WIDTH * WIDTH + WIDTH + WIDTH + 1)
        steps = 4 * 4  # AdamW's counter of steps, for each of four parameters
        kinds = {"parameters": weights, "gradients": weights, "moments": 2 * weights + steps, "ema": weights}
        assert {name: line[f"memory.{name}"] * 2**30 for name in kinds} == pytest.approx(kinds)
    whole = Workload(model=nn.ModuleList([two.frozen, two.net, two.scale, two.net]))
    lines, _ = run_two(tmp_path / "whole", workload=whole)
    assert lines[0]["memory.parameters"] * 2**30 == pytest.approx(weights + 4 * (WIDTH * WIDTH + WIDTH))


def test_flops_are_those_of_a_later_step_and_no_mfu_is_logged_on_a_cpu(tmp_path: Path) -> None:
    """Forward three layers; the gradients of two weights and the activation between them, twice: the test asks for
    some of them itself."""
    lines, _ = run_two(tmp_path / "run")
    last = 2 * BATCH * WIDTH  # the scale's product
    flops = (2 * PRODUCT + last) + (PRODUCT + last) + (PRODUCT + 2 * last)
    assert "speed.tflops" not in lines[0]
    for line in lines[1:]:
        assert line["speed.tflops"] == pytest.approx(flops / line["seconds"] / 1e12)
        assert "speed.mfu" not in line and "speed.hfu" not in line
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert facts["flops_per_step_and_rank"] == {"two": {"model": flops, "hardware": flops}}
    assert facts["peak"]["bf16_tflops"] is None and "cpu" in facts["peak"]["reason"]


class OddSteps(Uncounted):
    """Steps of two kinds in turn."""

    def kind(self, step: int) -> int:
        return step % 2


def test_flops_of_steps_of_two_kinds_are_counted_apart(tmp_path: Path) -> None:
    """Every second step draws twice as many samples; a line of both kinds has their mean."""
    settings = Settings(loop=LoopConfig(steps=8, log_every=2))
    lines, _ = run_two(tmp_path / "run", settings, Workload(order=OddSteps()), odd=2)
    last = 2 * BATCH * WIDTH
    flops = (2 * PRODUCT + last) + (PRODUCT + last) + (PRODUCT + 2 * last)
    assert "speed.tflops" not in lines[0]  # its first step was not counted
    for line in lines[1:]:
        assert line["speed.tflops"] == pytest.approx(1.5 * flops / line["seconds"] / 1e12)
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert facts["flops_per_step_and_rank"] == {"two": {"model": 2 * flops, "hardware": 2 * flops}}  # of the larger


def test_steps_that_are_not_counted_one_by_one() -> None:
    assert (Uncounted().samples(4), Uncounted(3).samples(4)) == (4, 12)


def test_counts_that_were_damaged_are_set_aside(tmp_path: Path) -> None:
    run_two(tmp_path / "run", Settings(loop=LoopConfig(steps=2, checkpoint_every=1)))
    shutil.rmtree(tmp_path / "run" / "checkpoint-two-2")
    (tmp_path / "run" / "latest").unlink()
    path = tmp_path / "run" / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flops_per_step_and_rank": 3}))
    run_two(tmp_path / "run", Settings(loop=LoopConfig(steps=2, checkpoint_every=1)))
    assert json.loads(path.read_text())["flops_per_step_and_rank"]["two"]["model"] > 0


@pytest.mark.parametrize(("steps", "counted"), [(1, [True]), (2, [False, True])])
def test_the_step_that_is_counted_in_a_short_session(tmp_path: Path, steps: int, counted: list[bool]) -> None:
    lines, _ = run_two(tmp_path / "run", Settings(loop=LoopConfig(steps=steps, log_every=1)))
    assert ["speed.tflops" in line for line in lines] == counted


def test_waits_are_of_one_step_and_the_peak_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps in a line, 0.25 s of waiting in each, before it 100 s of another stage."""
    monkeypatch.setattr(module.resource, "getrusage", lambda of: SimpleNamespace(ru_maxrss=1 << 20))  # KiB
    workload = Workload()
    workload.waited.seconds = 100.0
    lines, _ = run_two(tmp_path / "run", Settings(loop=LoopConfig(steps=4, log_every=2)), workload)
    assert [line["loader.seconds"] for line in lines] == pytest.approx([0.25, 0.25], abs=0.01)
    assert [line["memory.peak"] for line in lines] == [1.0, 1.0]


def test_the_peak_of_a_device_is_that_of_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> int:
        raise RuntimeError("Allocator for xpu is not a DeviceAllocator")

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda device: 8)
    assert [module._peak_memory(torch.device(kind)) for kind in ("cuda", "xpu")] == [7, 8]
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", refuse)
    assert module._peak_memory(torch.device("xpu")) is None


def test_mfu_is_model_flops_over_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "device_peak", lambda device: Peak(1e-6, "a slow device"))
    lines, _ = run_two(tmp_path / "run")
    for line in lines[1:]:
        assert line["speed.mfu"] == pytest.approx(line["speed.tflops"] / 1e-6) == line["speed.hfu"]


def test_gradient_norms_of_groups_are_those_before_clipping(tmp_path: Path) -> None:
    """Clipping to 0.01 must not show: the gradients of `net` are taken apart from the optimizer."""
    lines, two = run_two(tmp_path / "run")
    expected = math.sqrt(sum(float(g.square().sum()) for g in two.gradients))
    assert lines[-1]["grad_norm.net"] == pytest.approx(expected, rel=1e-5)
    for line in lines:
        together = math.hypot(line["grad_norm.net"], line["grad_norm.scale"])
        assert together == pytest.approx(line["grad_norm"], rel=1e-5) and line["grad_norm"] > 0.01


def test_the_norm_of_the_only_group_is_that_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Two, "modules", lambda self: {"net": self.net})
    lines, _ = run_two(tmp_path / "run")
    assert all(line["grad_norm.net"] == line["grad_norm"] > 0 for line in lines)


def of_one_group(workload: Workload, world_size: int = 1) -> Telemetry:
    """Telemetry of a stage without modules, whose parameters are one group."""
    update = SimpleNamespace(gradient_bytes=lambda: 0)
    state: Any = SimpleNamespace(state=dict, update=update)
    parallel: Any = SimpleNamespace(device=torch.device("cpu"), world_size=world_size)
    run: Any = SimpleNamespace()
    return Telemetry("one", state, [], [{"name": "net"}], workload, run, parallel, steps=4)


def test_a_gradient_norm_is_the_mean_of_the_finite_ones_since_the_last_line() -> None:
    telemetry = of_one_group(Workload())
    noted = telemetry.noting(torch.tensor)
    for norm in (1.0, math.nan, 3.0, math.inf, 8.0):
        noted(norm)
    assert telemetry.measured(0.5, 5)["grad_norm.net"] == 4.0
    noted(math.inf)
    assert math.isnan(telemetry.measured(0.5, 1)["grad_norm.net"])
    noted(7.0)
    assert telemetry.measured(0.5, 1)["grad_norm.net"] == 7.0


def test_an_amount_that_is_new_counts_from_nothing() -> None:
    amounts: dict[str, float] = {}
    telemetry = of_one_group(Workload(lambda: amounts))
    amounts["clips"] = 6
    assert telemetry.measured(0.5, 4)["speed.clips"] == 3.0


def test_waits_are_means_over_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """This rank has waited 3 s in 4 steps, the other 5 s."""

    def reduced(values: dict[str, float], op: Any) -> dict[str, float]:
        return {name: value + 5 / 4 if name == "loader.seconds" else value for name, value in values.items()}

    monkeypatch.setattr(module, "_reduced", reduced)
    workload = Workload()
    telemetry = of_one_group(workload, world_size=2)
    workload.waited.seconds += 3
    found = telemetry.measured(2.0, 4)
    assert (found["loader.seconds"], found["loader.share"]) == (1.0, 0.5)


def test_tensorboard_groups_names_with_a_dot(tmp_path: Path) -> None:
    run_two(tmp_path / "run")
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "two"))
    board.Reload()
    assert {"loss", "grad_norm", "grad_norm/net", "memory/peak", "loader/share"} <= set(board.Tags()["scalars"])
