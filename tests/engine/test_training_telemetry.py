"""What a step costs, as logged: rates, MFU, waits, memory by kind and gradient norms, each by hand."""

import gzip
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.run import Run
from phys4d.engine.run_folder.wandb_tracker import WeightsAndBiases, WeightsAndBiasesTracker
from phys4d.engine.training import telemetry as module
from phys4d.engine.training.flops import Peak
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig, train
from phys4d.engine.training.profiler import ProfileConfig, Profiler
from phys4d.engine.training.telemetry import Workload

ALONE = Parallel(0, 1, torch.device("cpu"), None)
BATCH, WIDTH = 4, 8
PRODUCT = 2 * BATCH * WIDTH * WIDTH


class Two:
    """A frozen layer before a trained one and a trained scale; the first step of a session evaluates more."""

    name = "two"

    def __init__(self, workload: Workload, extra: bool = True) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.frozen, self.net, self.scale = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.frozen.requires_grad_(False)
        self.workload, self.extra, self.gradients = workload, extra, [Tensor()]

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net, "scale": self.scale}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": n, "params": list(m.parameters()), "lr_scale": 1.0} for n, m in self.modules().items()]

    def update(self, step: int, optimizer_step: Any) -> dict[str, Tensor | float]:
        x = torch.arange(BATCH * WIDTH).view(BATCH, WIDTH) / 10 + step
        if self.extra:
            self.frozen(x)
            self.extra = False
        with self.workload.waited:
            pass
        self.workload.waited.seconds += 0.25
        loss = self.scale(self.net(self.frozen(x)).tanh()).square().mean()
        self.gradients = torch.autograd.grad(loss, list(self.net.parameters()), retain_graph=True)
        optimizer_step(loss)
        return {"loss": loss}


class Settings(Config):
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, clip_norm=0.01, ema=0.9)
    loop: LoopConfig = LoopConfig(steps=4, log_every=1)


def run_two(folder: Path, settings: Settings | None = None, workload: Workload | None = None) -> tuple[list, Two]:
    settings, workload = settings or Settings(), workload or Workload()
    two = Two(workload)
    with Run.create(folder, settings, resume=folder.exists()) as run:
        train(
            two, optimizer=settings.optimizer, loop=settings.loop, run=run, parallel=ALONE, resume=True,
            workload=workload,
        )  # fmt: skip
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], two


def test_rates_waits_and_memory(tmp_path: Path) -> None:
    lines, two = run_two(tmp_path / "run", workload=Workload({"clips": 8, "tokens": 512}))
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


def profiled(folder: Path, start: int, steps: int) -> Settings:
    return Settings(loop=LoopConfig(steps=4, log_every=1, profile=ProfileConfig(start=start, steps=steps)))


def test_a_profile_holds_the_steps_asked_for_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lines, _ = run_two(folder, profiled(folder, 2, 2))
    written = sorted(path.name for path in (folder / "profile" / "two").iterdir())
    assert written == ["steps-2-3.rank0.table.txt", "steps-2-3.rank0.trace.json.gz"]
    events = json.loads(gzip.decompress((folder / "profile" / "two" / written[1]).read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events]
    assert {name for name in names if str(name).startswith("step ")} == {"step 2", "step 3"}
    assert "aten::addmm" in (folder / "profile" / "two" / written[0]).read_text()
    assert "PythonDispatchMode" not in names, "FLOPs are not counted in a step whose time is recorded"
    assert "speed.tflops" not in lines[2] and "speed.tflops" in lines[3]


def test_writing_a_profile_is_no_part_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Profiler, "finish", lambda self, number: 1000.0 if number == 2 else 0.0)
    seconds = [line["seconds"] for line in run_two(tmp_path / "run")[0]]
    assert seconds[1] < -900 and all(0 < s < 100 for s in (seconds[0], *seconds[2:]))


def test_without_the_key_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phys4d.engine.training.profiler.profile", None)
    run_two(tmp_path / "run")
    assert not (tmp_path / "run" / "profile").exists()


def test_a_profile_that_the_disk_refuses_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (tmp_path / "run").mkdir()
    (folder / "profile").write_text("a file")
    settings = profiled(folder, 1, 1)
    refusal = pytest.raises(UserError, match=r"profile/two: the profile cannot be written: Not a dir")
    with Run.create(folder, settings, resume=False) as run, refusal:
        train(
            Two(Workload()), optimizer=settings.optimizer, loop=settings.loop, run=run, parallel=ALONE, resume=False
        )  # fmt: skip


def test_steps_that_do_not_exist_cannot_be_profiled() -> None:
    with pytest.raises(ValueError, match=r"profile: steps 3 to 5 of 4"):
        LoopConfig(steps=4, profile=ProfileConfig(start=3))


def test_tensorboard_groups_names_with_a_dot(tmp_path: Path) -> None:
    run_two(tmp_path / "run")
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "two"))
    board.Reload()
    assert {"loss", "grad_norm", "grad_norm/net", "memory/peak", "loader/share"} <= set(board.Tags()["scalars"])


STAND_IN = '''
import json, pathlib
calls = pathlib.Path(__file__).with_name("calls.jsonl")
def note(call, /, **facts):
    with calls.open("a") as file:
        file.write(json.dumps([call, facts]) + "\\n")
class _Run:
    url = "https://wandb.example/run"
    def define_metric(self, name, **options): note("define_metric", name=name, **options)
    def log(self, values): note("log", **values)
    def finish(self): note("finish")
def init(**options):
    if options["project"] == "unreachable":
        raise RuntimeError("no network\\nand a traceback")
    note("init", **options)
    return _Run()
'''


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for the package, which writes its calls into the file returned."""
    package = tmp_path / "packages" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield package / "calls.jsonl"
    sys.modules.pop("wandb", None)


def tracked(folder: Path, settings: Any, resume: bool, steps: int, track: Any) -> None:
    with Run.create(folder, settings, resume=resume) as run:
        run.track(track(run))
        loop = LoopConfig(steps=steps, log_every=1)
        train(Two(Workload()), optimizer=settings.optimizer, loop=loop, run=run, parallel=ALONE, resume=resume)


def test_weights_and_biases_gets_the_lines_and_a_resumed_run_goes_on(wandb: Path, tmp_path: Path) -> None:
    config = WeightsAndBiases(project="p", tags=("a",), mode="offline")
    for resume, steps in ((False, 2), (True, 3)):
        tracked(
            tmp_path / "run", Settings(), resume, steps, lambda run: WeightsAndBiasesTracker(config, run, Settings())
        )  # fmt: skip
    calls = [json.loads(line) for line in wandb.read_text().splitlines()]
    first, second = (facts for name, facts in calls if name == "init")
    assert first["id"] == second["id"] and first["resume"] == "allow" and first["mode"] == "offline"
    assert first["dir"] == str(tmp_path / "run") and first["config"]["loop"]["steps"] == 4
    logged = [facts for name, facts in calls if name == "log"]
    assert [facts["two/step"] for facts in logged] == [1, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged[0]["two/loss"] == lines[0]["loss"] and logged[0]["two/memory.peak"] == lines[0]["memory.peak"]
    assert [name for name, _ in calls].count("finish") == 2
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert facts["wandb"] == {"id": first["id"], "project": "p", "url": "https://wandb.example/run"}


def test_weights_and_biases_that_does_not_start_is_one_line(wandb: Path, tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", Settings(), resume=False) as run:
        with pytest.raises(UserError, match=r"^log.wandb: the run cannot be started: no network: or set mode = .off"):
            WeightsAndBiasesTracker(WeightsAndBiases(project="unreachable"), run, Settings())
        run.writes = False
        WeightsAndBiasesTracker(WeightsAndBiases(project="p"), run, Settings()).scalars("two", 1, {"loss": 1.0})
    assert not wandb.exists()
