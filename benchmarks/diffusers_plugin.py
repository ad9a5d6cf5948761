"""A pytest plugin that accelerates every model of diffusers in a test run and records the outcome of each test.

    PHYS4D_ACCELERATE=construction PHYS4D_OUTCOMES=FILE pytest -p phys4d.benchmarks.diffusers_plugin tests/...

PHYS4D_ACCELERATE is "stock" (nothing is changed), "construction" (at the end of the constructor) or "first call" (at
the start of a model's first call, or before it is compiled where that is earlier: nothing is swapped while tracing).
FILE gets JSON: outcome of each test, modules swapped in the tests of each file, and the version of diffusers.
`diffusers_tests.py` runs it.
"""

import functools
import json
import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MODES = ("stock", "construction", "first call")


class Outcomes:
    """Outcome of each test, and how many modules were swapped meanwhile.

    Attributes:
        tests: node id -> "passed", "failed", "skipped" or "expected failure"; the worst of setup, call and teardown.
        modules: file of tests -> modules swapped in all its models together.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.tests: dict[str, str] = {}
        self.modules = Counter[str]()

    def accelerate(self, model: Any) -> None:
        """Accelerates a model, and counts it."""
        from phys4d.kernels.integrate.diffusers import accelerate

        self.modules[os.environ["PYTEST_CURRENT_TEST"].partition("::")[0]] += len(accelerate(model).swapped)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keeps the worst outcome of a test's three phases."""
        outcome = "expected failure" if report.outcome == "skipped" and hasattr(report, "wasxfail") else report.outcome
        if self.tests.get(report.nodeid, "passed") == "passed":
            self.tests[report.nodeid] = outcome

    def pytest_sessionfinish(self) -> None:
        """Writes the file."""
        import diffusers

        found = {"diffusers": diffusers.__version__, "modules": self.modules}
        self.file.write_text(json.dumps(found | {"tests": self.tests}, indent=1))


def pytest_configure(config: Any) -> None:
    """Patches the classes and starts recording."""
    mode = os.environ["PHYS4D_ACCELERATE"]
    if mode not in MODES:
        raise ValueError(f"PHYS4D_ACCELERATE={mode}: expected {', '.join(MODES)}")
    outcomes = Outcomes(Path(os.environ["PHYS4D_OUTCOMES"]))
    config.pluginmanager.register(outcomes)
    patch = {"construction": _after_construction, "first call": _at_first_call}.get(mode)
    for kind in _transformers() if patch else ():
        assert patch is not None
        patch(kind, outcomes.accelerate)


def pytest_collection() -> None:
    """Lets tests that are marked as needing an accelerator run on a CPU; those that pass stock there count.

    Group offloading copies without streams then, which a CPU does not have.
    """
    if torch.accelerator.is_available():
        return
    from diffusers.models.modeling_utils import ModelMixin

    marks: Any = sys.modules["tests.testing_utils"]
    for name in ("require_accelerator", "require_torch_accelerator"):
        assert callable(getattr(marks, name))
        setattr(marks, name, lambda case: case)
    own = ModelMixin.enable_group_offload

    @functools.wraps(own)
    def offload(self: Any, *arguments: Any, **options: Any) -> None:
        own(self, *arguments, **options | {"use_stream": False, "record_stream": False})

    ModelMixin.enable_group_offload = offload


def _transformers() -> list[type]:
    """Diffusers' transformer classes."""
    from diffusers.models import transformers
    from diffusers.models.modeling_utils import ModelMixin

    return [kind for kind in vars(transformers).values() if isinstance(kind, type) and issubclass(kind, ModelMixin)]


def _after_construction(kind: Any, accelerate: Callable[[Any], None]) -> None:
    own = kind.__init__

    @functools.wraps(own)
    def construct(self: Any, *arguments: Any, **options: Any) -> None:
        own(self, *arguments, **options)
        if type(self) is kind:
            accelerate(self)

    kind.__init__ = construct


def _at_first_call(kind: Any, accelerate: Callable[[Any], None]) -> None:
    own, own_compile, called = kind.__call__, torch.compile, weakref.WeakSet[Any]()

    def once(model: Any) -> None:
        if type(model) is kind and model not in called:
            called.add(model)
            accelerate(model)

    @functools.wraps(own)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        if not torch.compiler.is_compiling():
            once(self)
        return own(self, *arguments, **options)

    @functools.wraps(own_compile)
    def compiled(model: Any = None, **options: Any) -> Any:
        once(model)
        return own_compile(model, **options)

    kind.__call__, torch.compile = call, compiled
