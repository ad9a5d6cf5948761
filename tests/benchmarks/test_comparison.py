"""A comparison of rivals: each one's failure, memory, compile time and graph are its own."""

import time
import weakref

import pytest
import torch

from phys4d.benchmarks import attention, comparison, timing
from phys4d.benchmarks.cases import ATTENTION
from phys4d.benchmarks.comparison import QUICK, DeviceLost, Effort, Needed, Runner, compare
from phys4d.benchmarks.timing import Prepared, interleaved

CPU = torch.device("cpu")
NEEDED = Needed()


def runner(forward, backward=None) -> Runner:
    works = {"forward": forward} | ({"backward": backward} if backward else {})
    return Runner(works, lambda: (0.0, True))


def rows_of(effort=QUICK, **rivals):
    makers = {name: (lambda work=work: runner(work)) for name, work in rivals.items()}
    return compare("case", makers, CPU, effort=effort, needed=lambda part, name: NEEDED)


def out_of_memory(amount: str):
    raise torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {amount}. GPU 0 has a total capacity of 139.80 GiB of which 9.25 GiB "
        "is free."
    )


@pytest.mark.parametrize(("amount", "mib"), [("35.50 GiB", 36_352.0), ("20.00 MiB", 20.0), ("512.00 KiB", 0.5)])
def test_a_lack_of_memory_refuses_only_its_rival_and_says_how_much_it_wanted(amount, mib) -> None:
    rows = rows_of(fine=lambda: None, large=lambda: out_of_memory(amount), last=lambda: None)
    assert {row["backend"] for row in rows if "ms" in row} == {"fine", "last"}
    (large,) = [row for row in rows if row["backend"] == "large"]
    assert large["wanted_mb"] == mib and large["refused"] == f"out of memory: it asked for {mib:,.0f} MiB more"


def test_memory_that_is_missing_in_a_later_round_refuses_only_its_rival() -> None:
    calls = []

    def late():
        calls.append(1)
        if len(calls) > 6:
            out_of_memory("1.00 GiB")

    rows = rows_of(comparison.Effort(10, 60.0), fine=lambda: None, late=late)
    assert [(row["backend"], "ms" in row) for row in rows] == [("late", False), ("fine", True)]
    assert rows[0]["wanted_mb"] == 1024 and rows[1]["rounds"] == 10


def test_compiling_is_a_column_of_its_own() -> None:
    calls = []

    def compiles():
        calls.append(1)
        if len(calls) == 1:
            time.sleep(0.3)

    rows = {row["backend"]: row for row in rows_of(compiles=compiles, plain=lambda: None)}
    assert 0.25 < rows["compiles"]["compile_s"] < 3 and rows["compiles"]["ms_p80"] < 100
    assert rows["plain"]["compile_s"] < 0.2


def test_a_rival_that_is_left_out_has_a_row_with_the_reason_and_is_never_called() -> None:
    def never():
        raise AssertionError

    watched = []
    rows = rows_of(
        Effort(3, 1.0, without={"never": "it crashed"}, watch=watched.append), never=never, fine=lambda: None
    )
    assert [row["refused"] for row in rows if row["backend"] == "never"] == ["it crashed"]
    assert set(watched) == {"fine"} and any(row["backend"] == "fine" and "ms" in row for row in rows)


def test_a_device_that_accepts_no_more_work_ends_the_comparison_with_the_name(monkeypatch) -> None:
    broken = []

    def illegal():
        broken.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def finish(device):
        if broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(comparison, "finish", finish)
    with pytest.raises(DeviceLost, match="illegal: CUDA error"):
        rows_of(fine=lambda: None, illegal=illegal, last=lambda: None)


class Graph:
    """What a forward pass keeps for its backward pass; counts how many there are at once."""

    alive = 0
    most = 0

    def __init__(self) -> None:
        Graph.alive += 1
        Graph.most = max(Graph.most, Graph.alive)
        weakref.finalize(self, self._gone)

    @staticmethod
    def _gone() -> None:
        Graph.alive -= 1


def test_only_one_rivals_graph_is_in_memory_and_it_is_not_timed() -> None:
    def before() -> Graph:
        time.sleep(0.02)
        return Graph()

    work = Prepared(before, lambda graph: None)
    times = interleaved({"a": work, "b": work}, CPU, rounds=3, seconds=10)
    assert Graph.most == 1 and Graph.alive == 0
    assert all(found.median < 10 for found in times.values())


def test_a_slow_rival_takes_part_in_three_rounds() -> None:
    calls = {"slow": 0, "fast": 0}

    def call(name: str, seconds: float) -> None:
        calls[name] += 1
        time.sleep(seconds)

    rivals = {"slow": lambda: call("slow", 0.12), "fast": lambda: call("fast", 0.001)}
    times = interleaved(rivals, CPU, rounds=8, seconds=60, warm_up=0)
    assert (calls["slow"], calls["fast"]) == (3, 8) and (times["slow"].rounds, times["fast"].rounds) == (3, 8)


def test_compiled_code_may_not_fall_back_to_uncompiled_code(monkeypatch) -> None:
    from torch.nn.attention import flex_attention as flex

    before = torch._dynamo.config.fail_on_recompile_limit_hit
    monkeypatch.setattr(flex, "_WARNINGS_SHOWN", set())
    x = torch.zeros(1, 1, 16, 16)
    with comparison.no_fallback():
        assert torch._dynamo.config.fail_on_recompile_limit_hit
        with pytest.raises(UserWarning, match="without torch.compile"):
            flex.flex_attention(x, x, x)
    assert torch._dynamo.config.fail_on_recompile_limit_hit == before


def test_peers_under_deterministic_algorithms_are_rivals_of_their_own(monkeypatch) -> None:
    """On a CPU "sdpa" takes the place of torch's CUDA kernels."""
    case = attention.small(next(case for case in ATTENTION if case.name == "opensora-spatial"))
    modes = []
    backend = attention.BACKENDS["sdpa"]

    class Watched:
        refusal, approximate = staticmethod(backend.refusal), None

        @staticmethod
        def run(call):
            filled = torch.utils.deterministic.fill_uninitialized_memory
            modes.append((torch.are_deterministic_algorithms_enabled(), filled))
            return backend.run(call)

    monkeypatch.setattr(attention, "DETERMINISTIC", ("sdpa",))
    monkeypatch.setitem(attention.BACKENDS, "sdpa", Watched)
    rows = attention.measure(case, CPU, Effort(3, 0.0, wanted=("sdpa-deterministic", "naive")))
    assert {row["backend"] for row in rows if "ms" in row} == {"sdpa-deterministic", "naive"}
    assert set(modes) == {(True, False)}
    assert not torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory


def test_rivals_are_timed_by_events_on_a_stand_in_for_a_gpu(monkeypatch) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, later: "Event") -> float:
            return (later.at - self.at) * 1e3

    peaks = iter([0, 3 * 2**20] * 2)
    fakes = {"Event": Event, "synchronize": lambda: None, "empty_cache": lambda: None,
             "reset_peak_memory_stats": lambda: None, "memory_allocated": lambda: next(peaks),
             "max_memory_allocated": lambda: next(peaks)}  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(timing, "EVENTS", {"cpu"})
    monkeypatch.setattr(timing, "FLUSH", 1 << 10)
    rows = rows_of(a=lambda: time.sleep(0.002), b=lambda: time.sleep(0.004))
    assert [row["peak_mb"] for row in rows] == [3.0, 3.0]
    assert all(row["host_ms"] > 1 and row["ms"] >= row["host_ms"] for row in rows)
