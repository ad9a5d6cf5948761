"""What the compiler makes of the kernels on the machines they are for, without one of them."""

import json
import os
import subprocess
import sys

import pytest

from phys4d.benchmarks import launches, machine_code, results
from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, FLOAT32, INT8, NORM_ROPE, REACH, VARIETY

CASES = [case.name for case in (*ATTENTION, *NORM_ROPE)]
ADAPTIVE = [case.name for case in ADAPTIVE_NORM]
ARCHITECTURES = pytest.mark.parametrize(
    "arch", ["90", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("80", "100"))]
)


def compiled(tmp_path, *arguments):
    """Compiles in a process of its own: the interpreter and the compiler exclude each other."""
    report = tmp_path / "kernels.json"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "phys4d.benchmarks.machine_code", "--json", report, *arguments],
        capture_output=True, text=True, env=environment, timeout=1500,
    )  # fmt: skip
    assert report.exists(), run.stdout + run.stderr
    return run, json.loads(report.read_text())


@ARCHITECTURES
def test_every_named_case_compiles_without_spills_onto_tensor_cores(tmp_path, arch):
    run, kernels = compiled(tmp_path, "--arch", arch, "--case", *CASES)
    assert run.returncode == 0, run.stdout
    assert {(kernel["case"], kernel["arch"]) for kernel in kernels} == {(case, int(arch)) for case in CASES}
    assert len(kernels) <= 40
    for kernel in kernels:
        assert kernel["stack"] == 0 and kernel["spills"] == 0
        assert kernel["programs_per_sm"] >= 1 and kernel["warps_per_sm"] == kernel["programs_per_sm"] * kernel["warps"]
        counts = kernel["instructions"]
        assert counts["tensor_core"] >= kernel["products"] and counts["total"] > 0 and counts["global_stores"]


@ARCHITECTURES
def test_gate_residual_norm_and_modulation_compile_without_spills(tmp_path, arch):
    run, kernels = compiled(tmp_path, "--arch", arch, "--case", *ADAPTIVE)
    assert run.returncode == 0, run.stdout
    made = {(kernel["case"], kernel["kernel"]) for kernel in kernels}
    whole = {(case, f"adaptive_norm.{name}") for case in ADAPTIVE for name in ("forward", "backward", "collect")}
    assert whole - made == {("wan-adaptive-tokens", "adaptive_norm.collect")}  # a sum of one token is a gradient
    assert all(kernel["stack"] == kernel["spills"] == kernel["narrow"] == 0 for kernel in kernels)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90", "100"])
def test_scores_from_int8_products_compile_onto_tensor_cores_of_integers(tmp_path, arch):
    run, kernels = compiled(tmp_path, "--arch", arch, "--case", *(case.name for case in INT8))
    assert run.returncode == 0, run.stdout
    made = {(kernel["case"], kernel["kernel"]) for kernel in kernels}
    assert made == {(case.name, f"int8.{name}") for case in INT8 for name in ("sums", "quantise", "forward")}
    found = next(kernel for kernel in kernels if kernel["kernel"] == "int8.forward")
    assert not machine_code.Kernel(**found).faults()
    found["instructions"] |= {"tensor_core": found["products"]}  # as without products of integers
    assert machine_code.Kernel(**found).faults() == ["no tensor core instruction of integers"]


FAMILIES = {
    "warp": "forward backward finish", "chamfer": "search runs gradient", "curve": "keys", "tree": "search",
    "depth": "forward backward", "flow": "forward backward", "scene_flow": "forward backward",
    "flow_warp": "forward peak backward finish", "splat": "land take return",
}  # fmt: skip


@ARCHITECTURES
def test_the_kernels_of_geometry_compile_without_spills(tmp_path, arch):
    run, kernels = compiled(tmp_path, "--geometry", "--arch", arch)
    assert run.returncode == 0, run.stdout
    made = {kernel["kernel"] for kernel in kernels}
    assert made == {f"{family}.{name}_kernel" for family, names in FAMILIES.items() for name in names.split()}
    assert {(kernel["case"], kernel["arch"]) for kernel in kernels} == {(case, int(arch)) for case in launches.GEOMETRY}


# Spills, mostly of a few bytes, at head dimensions that no named case has, on machines that they are not tuned for.
SPILLS = {
    "80": {
        ("window-16", "window.queries"), ("full-40", "flash_forward.forward"),
        ("temporal-128-40", "short_rows.backward"), ("window-40", "flash_forward.forward"),
        ("window-40", "window.forward"), ("window-96", "window.queries"), ("window-96", "window.keys"),
    },
    "90": set(),
    "100": {
        ("window-16", "window.queries"), ("window-40", "window.forward"), ("full-96", "flash_forward.forward"),
        ("window-96", "flash_forward.forward"), ("window-96", "window.queries"),
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90", "100"])
def test_every_pattern_compiles_at_other_head_dimensions(tmp_path, arch):
    _, kernels = compiled(tmp_path, "--variety", "--arch", arch)
    assert {kernel["case"] for kernel in kernels} == {case.name for case in VARIETY}
    faulty = {(k["case"], k["kernel"]): machine_code.Kernel(**k).faults() for k in kernels}
    faulty = {place: faults for place, faults in faulty.items() if faults}
    assert faulty.keys() == SPILLS[arch]
    for faults in faulty.values():
        assert len(faults) == 1 and faults[0].startswith("spills: ")


# At most 64 bytes of a thread, on sm_100 216: smaller tiles would not spill on sm_90, and be read twice as often.
REACH_SPILLS = {
    "80": {("causal-64", "flash_backward.queries")},
    "90": {(case, "flash_backward.keys") for case in ("shared-128", "shared-spatial-72", "masked-128")},
    "100": {(case, "flash_backward.keys") for case in ("shared-128", "shared-spatial-72")},
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90", "100"])
def test_shared_heads_causal_sequences_and_masks_compile(tmp_path, arch):
    _, kernels = compiled(tmp_path, "--reach", "--arch", arch)
    assert {kernel["case"] for kernel in kernels} == {case.name for case in REACH}
    faulty = {(k["case"], k["kernel"]) for k in kernels if machine_code.Kernel(**k).faults()}
    assert faulty == REACH_SPILLS[arch]
    assert all(kernel["stack"] <= (216 if arch == "100" else 64) for kernel in kernels)


@pytest.mark.slow
def test_float32_spills_a_few_bytes_at_most_and_only_in_windows(tmp_path):
    _, kernels = compiled(tmp_path, "--float32", "--arch", "90")
    assert {kernel["case"] for kernel in kernels} == {case.name for case in FLOAT32}
    for kernel in kernels:
        faults = machine_code.Kernel(**kernel).faults()
        if kernel["kernel"].startswith("window.") and kernel["stack"] < 128:
            faults = [fault for fault in faults if not fault.startswith("spills: ")]
        assert not faults, (kernel["case"], kernel["kernel"], faults)


def test_a_fault_is_found():
    good = machine_code.Kernel(
        "case", "flash.forward", 90, {}, 128, 0, 0, 100_000, 0, 8, 2, 16, "registers", 24, 0, 0, {}, 1.0
    )
    assert good.faults() == []
    for change, words in [
        ({"stack": 8}, "spills: 8 bytes"),
        ({"spills": 3}, "3 accesses"),
        ({"shared_memory": 240_000}, "of 232448"),
        ({"products": 0}, "no tensor core"),
        ({"narrow": 2}, "2 global accesses"),
    ]:
        (fault,) = machine_code.Kernel(**{**good.__dict__, **change}).faults()
        assert words in fault


@pytest.mark.parametrize("name", ["unknown-case"])
def test_an_unknown_case_is_refused(tmp_path, name):
    run = subprocess.run(
        [sys.executable, "-m", "phys4d.benchmarks.machine_code", "--case", name], capture_output=True, text=True
    )
    assert run.returncode == 2 and "invalid choice" in run.stderr


def test_the_committed_machine_code_is_that_of_every_case_without_a_fault():
    kernels = results.committed("machine-code.json")
    assert {kernel["case"] for kernel in kernels} == {*CASES, *ADAPTIVE, *(case.name for case in INT8)}
    assert not any(machine_code.Kernel(**kernel).faults() for kernel in kernels)
