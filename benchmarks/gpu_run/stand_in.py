"""A rehearsal of the run without a GPU: every slice, case and rival, in small, so that no slip waits for the GPU.

In a worker that calls `install`, Triton interprets kernels on the CPU, CUDA's events and memory counters are stand-ins,
compiled rivals are not compiled, and only torch, triton, numpy, pytest and what these need can be imported. Its results
are marked as a rehearsal and are never adopted. Faults can be planted, to show that one costs only its own case:

    abort:CASE[:RIVAL]    the process ends at once, as after an illegal address
    hang:CASE[:RIVAL]     the case does not end
    memory:CASE:RIVAL     an allocation fails
    slow:CASE             the case takes two seconds more
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "triton", "numpy", "pytest")
# What these import themselves, and this project.
NEEDED = (
    "torchgen", "functorch", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "sympy", "mpmath",
    "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions", "setuptools", "_distutils_hack",
    "phys4d",
)  # fmt: skip
HOME = "/nonexistent"  # of a worker: nothing can be written there
MEMORY_MIB = 36_577  # that a planted allocation asks for
CONFTEST = Path(__file__).resolve().parents[2] / "tests" / "kernels" / "conftest.py"


def environment() -> dict[str, str]:
    """The variables of a worker: no home and no cache folders, and Triton interprets."""
    left = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in left}
    return kept | {"HOME": HOME, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}


class _Limited:
    """A finder of modules that finds those of the allowed packages only."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, *rest: Any) -> Any:
        top = name.split(".")[0]
        known = top in (*PACKAGES, *NEEDED) or top in sys.stdlib_module_names
        if not known and not name.startswith(("__editable", "_sysconfigdata")):  # of an editable install; of Python
            return None
        return self.finder.find_spec(name, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def limit_imports() -> None:
    """From here on only the packages above can be imported."""
    sys.meta_path[:] = [finder if isinstance(finder, _Limited) else _Limited(finder) for finder in sys.meta_path]


class _Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, later: "_Event") -> float:
        return (later.at - self.at) * 1e3


def install(plants: Sequence[str]) -> None:
    """Makes this process a rehearsing worker; plants: the faults above."""
    limit_imports()
    import torch

    from phys4d.benchmarks import timing

    if not CONFTEST.exists():
        raise SystemExit(f"{CONFTEST}: a rehearsal needs a checkout with its tests")
    spec = importlib.util.spec_from_file_location("interpreter_conftest", CONFTEST)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # makes the interpreter's bfloat16 right
    timing.EVENTS.add("cpu")
    timing.FLUSH, timing.LEARN = 1 << 10, 1
    timing.compiled = lambda rival, mode=None: rival  # type: ignore[assignment]  # before others import it
    fakes: dict[str, Any] = {
        "Event": _Event, "synchronize": lambda *device: None, "empty_cache": lambda: None,
        "memory_allocated": lambda *device: 0, "max_memory_allocated": lambda *device: 0,
        "reset_peak_memory_stats": lambda *device: None,
    }  # fmt: skip
    for name, fake in fakes.items():
        setattr(torch.cuda, name, fake)
    from phys4d.benchmarks.gpu_run import cases

    cases.run = _planted(cases.run, plants)


def _planted(run: Callable[..., Any], plants: Sequence[str]) -> Callable[..., Any]:
    faults = [plant.split(":") for plant in plants]

    def strike(case: str, rival: str) -> None:
        import torch

        for what, *where in faults:
            if where != ([case, rival] if rival else [case]):
                continue
            if what == "abort":
                os.abort()
            if what == "hang":
                time.sleep(1e6)
            if what == "slow":
                time.sleep(2)
            if what == "memory":
                size = MEMORY_MIB / 1024
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size:.2f} GiB. GPU 0 has ...")

    def faulty(
        name: str, item: Any, device: Any, out: Path, without: Mapping[str, str], watch: Callable[[str], None],
        stand_in: bool,
    ) -> Any:  # fmt: skip
        def watched(rival: str) -> None:
            watch(rival)
            strike(item.name, rival)

        strike(item.name, "")
        return run(name, item, device, out, without, watched, stand_in)

    return faulty
