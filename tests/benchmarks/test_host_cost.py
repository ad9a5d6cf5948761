"""The benchmark of host time: every call launches our kernels, and the committed result is complete."""

import subprocess
import sys

import pytest

from phys4d.benchmarks import check_cost, host_cost, results


@pytest.mark.slow
def test_a_quick_run_launches_our_kernels_in_every_call_but_torchs_own():
    command = [sys.executable, "-m", "phys4d.benchmarks.host_cost", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output = done.stdout.splitlines()
    found, lines = output[2 : 2 + len(check_cost.checks())], output[4 + len(check_cost.checks()) :]
    assert [line.split(" | ")[0].removeprefix("| ") for line in found] == list(check_cost.checks())
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [case.name for case in host_cost.cases()]
    for line in lines:
        _, launches, *times = line.strip("| ").split(" | ")
        assert all(int(number) > 0 for number in launches.split(", "))
        assert all(float(us) > 0 for way in times for us in way.split(", "))


def test_the_committed_result_covers_every_case_way_and_part():
    rows = results.committed("host-cost.json")["rows"]
    assert {(row["case"], row["way"], row["part"]) for row in rows} == {
        (case.name, way, part) for case in host_cost.cases() for way in host_cost.WAYS for part in host_cost.PARTS
    }


def test_every_check_passes_what_it_looks_at():
    for check in check_cost.checks().values():
        check()
    rows = check_cost.measure(calls=1, rounds=2)
    assert [row["check"] for row in rows] == list(check_cost.checks()) and all(row["us"] > 0 for row in rows)
    assert len(check_cost.table(rows).splitlines()) == 2 + len(rows)


@pytest.mark.parametrize("case", host_cost.cases("auto"), ids=lambda case: case.name)
def test_ours_and_torchs_own_compute_the_same(case):
    for mine, theirs in zip(case.ours(*case.leaves), case.eager(*case.leaves), strict=True):
        assert (mine - theirs).abs().max() < 1e-4
