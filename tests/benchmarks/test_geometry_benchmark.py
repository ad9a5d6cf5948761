"""The benchmark of 4D geometry: rivals compute the same, floors come from shapes, a rival that fails has a row."""

import pytest
import torch

from phys4d.benchmarks import geometry as bench
from phys4d.benchmarks import geometry_predictions, launches, machine_code, results
from phys4d.benchmarks.cases import GEOMETRY, GeometryCase
from phys4d.benchmarks.comparison import QUICK
from phys4d.cli import main

CPU = torch.device("cpu")
SMALL = {case.name: bench.small(case) for case in GEOMETRY}


@pytest.mark.parametrize("name", SMALL)
def test_rivals_compute_the_same_value_and_gradients(name) -> None:
    found, leaves = bench.rivals(SMALL[name], CPU, torch.float64)
    assert next(iter(found)) == "ours" and len(found) > 1
    results = {}
    for rival, loss in found.items():
        value = loss()
        results[rival] = value.detach(), *bench.backward_of(value, leaves)()
    for rival, result in results.items():
        for got, want in zip(result, results["ours"], strict=True):
            # grid_sample computes places in [-1, 1] and back: what lands on the border falls to one side or the other.
            close = torch.isclose(got, want, rtol=1e-6, atol=1e-9)
            assert close.double().mean() > 0.999, rival


def test_floors_are_those_that_were_worked_out() -> None:
    """Milliseconds on an H200: bytes counted by hand, and 3 ms for an exhaustive search of 100k x 100k points."""
    pixels = 49 * 480 * 720
    warp = next(case for case in GEOMETRY if case.name == "warp")
    for part, a_pixel in (("forward", 5 * 4 + 1), ("backward", 5 * 4 + 1 + 4 * 4)):
        assert bench.floor_ms(warp, part, "ours", "NVIDIA H200") == pytest.approx(pixels * a_pixel / 4.3e9)
    clouds = next(case for case in GEOMETRY if case.name == "chamfer-100k")
    assert bench.floor_ms(clouds, "forward", "ours, exhaustive", "NVIDIA H200") == pytest.approx(3.0, rel=0.02)
    assert bench.floor_ms(clouds, "forward", "ours", "NVIDIA H200") is None  # it need not compare all
    assert bench.floor_ms(clouds, "forward", "ours", "another card") is None


def test_the_surface_is_seen_from_where_the_camera_stands() -> None:
    wrong, true = bench.chamfer.surface(5000)
    assert wrong.shape == true.shape == (5000, 3) and bool((true[:, 2] > 1).all() and (true[:, 2] <= 6).all())
    on_floor = (true[:, 1] - 1.2).abs() < 1e-4
    assert 0.05 < float(on_floor.double().mean()) < 0.9
    torch.testing.assert_close(wrong[:, :2] / wrong[:, 2:], true[:, :2] / true[:, 2:], rtol=1e-4, atol=1e-5)


def test_a_rival_that_fails_has_a_row_with_the_reason(monkeypatch) -> None:
    def failing(case: GeometryCase, device: torch.device, dtype: torch.dtype = torch.float32):
        leaf = torch.ones(3, dtype=dtype, requires_grad=True)

        def broken() -> torch.Tensor:
            raise RuntimeError("out of luck")

        return {"ours": lambda: leaf.sum(), "broken": broken}, [leaf]

    monkeypatch.setattr(bench, "rivals", failing)
    rows = bench.measure(SMALL["warp"], CPU, QUICK)
    assert [row["refused"] for row in rows if "refused" in row] == ["RuntimeError: out of luck"]
    assert {row["part"] for row in rows if row["backend"] == "ours"} == {"forward", "backward"}


def test_a_quick_run_from_the_command_line(tmp_path, capsys) -> None:
    arguments = ["--device", "cpu", "--quick", "--case", "flow-l1", "--out", str(tmp_path)]
    assert main(["bench", "geometry", *arguments]) == 0
    assert "### flow-l1-small" in capsys.readouterr().out
    assert {file.name for file in tmp_path.iterdir()} == {"geometry.json", "geometry.md", "geometry.svg"}
    assert "in float32 on" in (tmp_path / "geometry.svg").read_text()


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("chamfer")])
def test_peers_make_what_they_need_on_the_device_of_their_inputs(name) -> None:
    found, _ = bench.rivals(SMALL[name], torch.device("meta"))
    for rival, loss in found.items():
        if rival != "ours":
            assert loss().device.type == "meta", rival


def test_the_committed_machine_code_is_that_of_every_case_without_a_fault() -> None:
    kernels = results.committed("machine-code-geometry.json")
    assert {kernel["case"] for kernel in kernels} == set(launches.GEOMETRY)
    assert not any(machine_code.Kernel(**kernel).faults() for kernel in kernels)
    assert set(geometry_predictions.STREAMING) <= {case.name for case in GEOMETRY} & set(launches.GEOMETRY)
