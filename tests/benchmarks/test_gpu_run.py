"""The run on a GPU: its plan, its files, the caches it uses, and what it imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from phys4d.benchmarks import expected
from phys4d.benchmarks.cases import ATTENTION
from phys4d.benchmarks.gpu_run import cases, checks, environment, plan, supervisor, worker
from phys4d.benchmarks.gpu_run.__main__ import main
from phys4d.benchmarks.gpu_run.record import Record, RecordError
from tests.benchmarks.gpu_results import about

ROOT = Path(__file__).parents[2]
UNPREDICTED = ("flow-warp", "splat", "chamfer-100k", "chamfer-100k-surface", "chamfer-frame")
ORDER = ["check", "attention", "tune", "elementwise", "geometry", "blocks", "step"]


def test_the_essential_slices_fit_half_an_hour_and_each_fits_eight_minutes() -> None:
    slices = plan.slices()
    assert [part.name for part in slices] == ORDER
    assert all(part.seconds <= 60 * plan.MINUTES for part in slices)
    assert sum(part.seconds for part in slices if part.essential) <= 60 * plan.ESSENTIAL_MINUTES
    assert [part.name for part in slices if not part.essential] == ["step"]
    assert sum(item.kernels for item in slices[0].items) <= plan.KERNELS
    for part in plan.slices(full=True):
        names = [item.name for item in part.items]
        assert len(names) == len(set(names)) and all(item.limit >= 5 * item.seconds for item in part.items)
    assert len(plan.slices(full=True)[0].items) > len(slices[0].items)


def test_every_case_and_its_prediction_is_in_the_plan() -> None:
    for part in plan.slices():
        if part.name in cases.KINDS:
            known = [case.name for case in cases.KINDS[part.name].cases(None, torch.device("cuda"))]
            assert [item.name for item in part.items] == known
            for name in known:
                for word in ("forward", "backward"):
                    ours = expected.milliseconds(part.name, name, word)
                    assert (ours is None) == (part.name == "blocks" or name in UNPREDICTED) and (
                        ours is None or ours > 0
                    )


def test_the_plan_prints_every_slice_and_the_sum(capsys) -> None:
    assert main(["plan"]) == 0
    text = capsys.readouterr().out
    assert all(f"| {name} | " in text for name in ORDER) and "Essential slices together: 2" in text


def test_predictions_stand_beside_our_rows_on_the_gpu_that_they_are_for() -> None:
    rows = [{"case": "wan-5b", "part": "forward", "backend": name} for name in ("triton", "sdpa")]
    rows.append({"case": "wan-5b", "backend": "flex", "refused": "why"})
    found = expected.annotated("attention", rows, "NVIDIA H200")
    assert found[0]["predicted_ms"] == pytest.approx(21.1, abs=0.1)
    assert found[1]["predicted_ms"] is None and "predicted_ms" not in found[2]
    assert expected.annotated("attention", rows, "NVIDIA A100")[0]["predicted_ms"] is None


@pytest.mark.parametrize("home", ["", "/nonexistent", "file"])
def test_without_a_home_the_caches_are_in_the_temporary_folder(home, tmp_path, monkeypatch) -> None:
    if home == "file":
        (tmp_path / "file").write_text("")
        home = str(tmp_path / "file")
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path / "spare"))
    found = environment.caches({"HOME": home} if home else {})
    assert found.keys() == {"TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "HOME", "USER"}
    for variable in environment.VARIABLES:
        assert Path(found[variable]).is_dir() and Path(found[variable]).is_relative_to(tmp_path)
    assert environment.caches({"HOME": home, "TRITON_CACHE_DIR": "/filled"})["TRITON_CACHE_DIR"] == "/filled"


def test_a_home_that_can_be_written_and_named_caches_are_left_alone(tmp_path) -> None:
    assert environment.caches({"HOME": str(tmp_path)}) == {}
    assert environment.caches({"HOME": str(tmp_path), "TRITON_CACHE_DIR": "/filled"}) == {"TRITON_CACHE_DIR": "/filled"}


COUNTED = """
import sys, torch, triton
import triton.language as tl
from phys4d.benchmarks.compile_only import CompileOnlyDriver
from phys4d.benchmarks.gpu_run.environment import Compilations

@triton.jit
def kernel(x, N: tl.constexpr):
    tl.store(x + tl.arange(0, N), 1.0)

triton.runtime.driver.set_active(CompileOnlyDriver(90))
counted = Compilations(2)
counted.listen()
for n in (16, 32):
    kernel.run(torch.empty(n, device="meta"), n, grid=(1,), warmup=True)
print(counted.compiled, counted.found, counted.seconds > 0, counted.exhausted(1, 0), counted.exhausted(0, 0))
"""


def test_kernels_that_are_compiled_and_kernels_that_are_found_are_counted(tmp_path) -> None:
    file = tmp_path / "counted.py"
    file.write_text(COUNTED)
    variables = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    variables.pop("TRITON_INTERPRET", None)

    def run() -> str:
        done = subprocess.run([sys.executable, file], capture_output=True, text=True, env=variables, check=True)
        return done.stdout.strip()

    assert run() == "2 0 True True False"
    assert run() == "0 2 False False False"


LIMITED = """
import importlib, pkgutil, sys
from phys4d.benchmarks.gpu_run import stand_in
stand_in.limit_imports()
for name in ("pydantic", "diffusers", "scipy", "rich", "hypothesis", "safetensors"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} was imported")
import phys4d.benchmarks.gpu_run as package
for found in pkgutil.iter_modules(package.__path__):
    if found.name not in ("adopt",):  # it fills the pages, in a checkout with everything installed
        importlib.import_module(f"phys4d.benchmarks.gpu_run.{found.name}")
import phys4d.benchmarks.run, phys4d.benchmarks.test_kernels
import pytest
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "tests/gpu"]))
"""


def test_the_run_and_the_tests_on_a_gpu_import_torch_triton_numpy_and_pytest_only() -> None:
    variables = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=ROOT, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "test_named_cases_err_at_most_twice_as_much_as_torch[wan-5b]" in done.stdout


def test_without_a_gpu_the_run_is_refused(tmp_path, capsys) -> None:
    assert main(["run", "attention", "--out", str(tmp_path)]) == 2
    assert "torch finds no CUDA device here" in capsys.readouterr().err
    assert not (tmp_path / "attention.json").exists()
    assert main(["run", "unknown", "--out", str(tmp_path)]) == 2
    assert "unknown: no such slice" in capsys.readouterr().err


def test_a_folder_is_gone_on_with_by_the_same_gpu_and_source_only(tmp_path) -> None:
    begun = Record(tmp_path / "check.json")
    begun.goes_on(about("check"))
    begun.finish("wan-5b", "done", 1.0, 2.0, rows=[{"passed": True}])
    again = Record.read(tmp_path / "check.json")
    again.goes_on(about("check", provenance={"date": "2026-01-03T00:00:00+00:00"}))
    assert again.finished("wan-5b") and not again.finished("cogvideox-5b") and again.rows() == [{"passed": True}]
    for change, word in (
        ({"stand_in": True}, "stand_in"), ({"provenance": {"gpus": ["NVIDIA A100"]}}, "GPUs"),
        ({"provenance": {"git_revision": "other"}}, "git_revision"), ({"provenance": {"torch": "2.13.0"}}, "torch"),
    ):  # fmt: skip
        with pytest.raises(RecordError, match=f"was begun with {word}"):
            Record.read(tmp_path / "check.json").goes_on(about("check", **change))
    (tmp_path / "check.json").write_text("{}")
    with pytest.raises(RecordError, match="is no file of this run"):
        Record.read(tmp_path / "check.json")


def test_cases_that_were_lost_or_refused_are_run_again_when_that_is_asked_for(tmp_path) -> None:
    begun = Record(tmp_path / "attention.json", about("attention"))
    for name, state in (("wan-5b", "done"), ("wan-1.3b", "lost"), ("wan-window", "refused")):
        begun.finish(name, state, 1.0, 2.0, rows=[])
    supervisor.again(tmp_path, plan.named(["attention"]))
    assert set(Record.read(tmp_path / "attention.json").cases) == {"wan-5b"}


def test_the_position_of_a_process_survives_it(tmp_path) -> None:
    position = worker.Position(tmp_path / "position")
    assert worker.Position.read(tmp_path / "position") == {}
    position.begin("wan-5b")
    position.rival("sdpa-flash-deterministic")
    found = worker.Position.read(tmp_path / "position")
    assert (found["case"], found["rival"]) == ("wan-5b", "sdpa-flash-deterministic")
    position.begin("")
    assert worker.Position.read(tmp_path / "position") == {}


def test_a_check_that_fails_says_what_and_by_how_much() -> None:
    rows = [
        {"what": "out", "error": 0.1, "limit": 0.2, "passed": True},
        {"what": "gradient of q", "error": 0.3, "limit": 0.2, "passed": False}, {"what": "finite", "passed": False},
    ]  # fmt: skip
    assert checks.failures(rows) == ["gradient of q: 3.0e-01, at most 2.0e-01", "finite: no"]


def test_a_wrong_kernel_fails_its_check(monkeypatch) -> None:
    """On a CPU the definition takes the place of the kernel: right, then with one value off."""
    case = next(case for case in ATTENTION if case.name == "opensora-spatial")
    backends = checks.attention.BACKENDS
    wrong = []

    class Kernel:
        refusal = staticmethod(lambda call: None)

        @staticmethod
        def run(call):
            out, lse = backends["reference"].run(call)
            return (out * (1.2 if wrong else 1.0)).to(call.q.dtype), lse

    monkeypatch.setattr(checks.attention, "by_backend", lambda case, name: (
        lambda q, k, v: (Kernel if name == "triton" else backends[name]).run(checks.attention._call(case, q, k, v))[0]
    ))  # fmt: skip
    assert checks.failures(checks.of_attention(case, torch.bfloat16, torch.device("cpu"))) == []
    wrong.append(1)
    failed = checks.failures(checks.of_attention(case, torch.bfloat16, torch.device("cpu")))
    assert [line.split(":")[0] for line in failed] == ["out", "gradient of q", "gradient of k", "gradient of v"]
