"""Runs tests against mutants in forked children of a process that has imported everything else.

A child imports the mutated module from its changed syntax tree; no file is written. The process that forks the
children of a module holds the libraries and those parts of phys4d that do not import that module.
"""

import ast
import gc
import importlib
import importlib.util
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TypeVar

from tests.mutate.modules import dotted
from tests.mutate.mutations import Fault

LIBRARIES = (
    "numpy", "torch", "torch.distributed.checkpoint.state_dict", "torch.utils.tensorboard", "triton", "hypothesis",
    "pytest", "diffusers.models.transformers.transformer_wan", "diffusers.models.autoencoders.autoencoder_kl_wan",
    "peft.tuners.lora", "transformers.models.umt5.modeling_umt5", "pydantic", "av", "blosc2", "pyarrow.parquet",
    "rich.progress", "safetensors.torch", "scipy.spatial",
)  # fmt: skip
ENTRIES = (
    "phys4d.stages.runner",
    "phys4d.stages.preflight",
    "phys4d.rewards.moving_chamfer",
    "phys4d.kernels.geometry",
    "phys4d.kernels.attention",
)
# Without its plugins that collect all garbage at the end and that write to the disk.
OPTIONS = ("-x", "-q", *("-p", "no:cacheprovider"), *("-p", "no:unraisableexception"), *("-p", "no:threadexception"))
SECONDS = 60  # of processor time that a mutant's tests may take; on the clock five times as long
SURVIVED, KILLED, NO_TESTS = 0, 1, 5
F = TypeVar("F", bound=Fault)


class _Changed(SourceFileLoader):
    """Loads a module from a syntax tree instead of its file."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self.tree = tree

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    """Finds one module in its changed form."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name, self.tree = name, tree

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        folder = importlib.import_module(name.rpartition(".")[0]).__path__[0]
        file = str(Path(folder) / f"{name.rpartition('.')[2]}.py")
        loader: Loader = _Changed(name, file, self.tree)
        return importlib.util.spec_from_file_location(name, file, loader=loader)


class _WithoutShrinking:
    """Property tests end at their first counterexample; a smaller one is of no use here and takes minutes."""

    @staticmethod
    def pytest_collection() -> None:
        from hypothesis import Phase, settings

        settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None)
        settings.load_profile("mutants")


def warm() -> None:
    """Imports the libraries, once."""
    sys.dont_write_bytecode = True
    for name in LIBRARIES:
        importlib.import_module(name)
    import pytest
    import torch

    torch.set_num_threads(1)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with tempfile.TemporaryDirectory() as empty, Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
        pytest.main([*OPTIONS, "-c", os.devnull, empty])  # so that pytest's own modules are there


def outcomes(root: Path, module: str, tests: Sequence[str], chosen: Sequence[F]) -> Iterator[tuple[F, int]]:
    """Each fault with 0 where the tests pass and another number where they fail; first the module as it is.

    RuntimeError where the tests fail without a fault, or are none.
    """
    source = (root / module).read_text()
    read, write = os.pipe()
    server = os.fork()
    if server == 0:
        os.close(read)
        with suppress(BrokenPipeError), os.fdopen(write, "w", buffering=1) as answers:
            _serve(root, module, tests, [None, *chosen], source, answers)
        os._exit(0)
    os.close(write)
    try:
        with os.fdopen(read) as answers:
            for fault, line in zip([None, *chosen], answers, strict=False):
                code = json.loads(line)
                if fault is not None:
                    yield fault, code
                elif code != SURVIVED:
                    raise RuntimeError(f"{module}: its tests end with {code} without a fault: {' '.join(tests)}")
    finally:  # it ends with the fault at hand, when it finds its answers unread
        os.waitpid(server, 0)


def _serve(
    root: Path, module: str, tests: Sequence[str], chosen: Sequence[Fault | None], source: str, answers: object
) -> None:
    """Imports what does not depend on the module, then forks a child per fault."""
    for name in independent(root, dotted(module)):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children neither scan nor copy what is here
    for fault in chosen:
        tree = ast.parse(source) if fault is None else fault.planted(source)
        print(json.dumps(_child(dotted(module), tree, tests)), file=answers)  # type: ignore[call-overload]


def _child(name: str, tree: ast.Module, tests: Sequence[str]) -> int:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        sys.meta_path.insert(0, _Finder(name, tree))
        import pytest

        options = (*OPTIONS, "-m", "not slow and not gpu and not interpreted")
        os._exit(int(pytest.main([*options, *tests], [_WithoutShrinking()])))
    end = time.monotonic() + 5 * SECONDS
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return KILLED if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return KILLED


def independent(root: Path, module: str) -> list[str]:
    """Modules of phys4d that the stages load and that do not import `module`, by the import statements of the files
    and the names of modules in their strings (registries)."""
    imports: dict[str, set[str]] = {}

    def visit(name: str) -> None:
        path = root / name.replace(".", "/")
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if name in imports or not file.is_file():
            return
        imports[name] = {name.rpartition(".")[0]} - {""}
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                imports[name] |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                imports[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and re.fullmatch(r"phys4d(\.\w+)+", str(node.value)):  # of a registry
                imports[name].add(node.value)
        imports[name] = {other for other in imports[name] if other.split(".")[0] == "phys4d"}
        for other in imports[name]:
            visit(other)

    for entry in ENTRIES:
        visit(entry)
    dependent = {module}
    while more := {name for name, others in imports.items() if others & dependent} - dependent:
        dependent |= more
    return sorted(set(imports) - dependent)
