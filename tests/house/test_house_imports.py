"""The imports of the source files: which packages and modules may import which, and that no imports form a circle."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("kernels", "engine", "benchmarks", "phys4d")
LINKS = ("kernels", "engine", "benchmarks")
# The folders and modules of the subject, lowest first: each may import those before it, and the kernels and the engine.
ORDER = (
    "recipes", "models", "batch", "bad_clips", "caches", "host_batch", "mixture", "clips", "rewards",
    "simulation", "importers", "teachers", "evaluate", "stages", "report", "generate", "view", "probe", "export",
    "dry_run", "train", "demo", "doctor", "benchmarks", "commands", "cli", "__main__",
)  # fmt: skip
Graph = dict[str, set[str]]
# Where a module's name is not that of its distribution.
DISTRIBUTION = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "flash_attn": "flash-attn-4",
    "mujoco": "mujoco-core",
    "rerun": "rerun-sdk",
    "nvidia": "nvidia-dali-cuda130",
    "warp": "warp-lang",
}


def files(*folders: str) -> list[Path]:
    """The Python files of these folders; the symlinks inside phys4d/ are not followed twice."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not any(ROOT / "phys4d" / link in path.parents for link in LINKS)]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(absolute module, whether it is imported when the file is) of every import in a file."""
    relative = path.relative_to(ROOT)
    package = list(relative.parts[:-1])
    if package and package[0] in LINKS:
        package.insert(0, "phys4d")
    tree = ast.parse(path.read_text())
    lazy = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in lazy
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "phys4d":  # `from phys4d import engine` imports phys4d.engine
                for alias in node.names:
                    yield f"phys4d.{alias.name}", id(node) not in lazy
            else:
                yield module, id(node) not in lazy


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def import_graph(sources: Mapping[str, str]) -> Graph:
    """Module -> the modules that it imports anywhere in its file, except under `if TYPE_CHECKING`.

    sources: path of a file with "/" -> its text; only imports of these files count. `from a.b import c` imports a.b.c
    where that is one of the files, else a.b; it does not import the package a. A string that is the name of a module
    (in a registry) counts as an import of it.
    """
    names = {path: path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sources}
    graph: Graph = {name: set() for name in names.values()}
    for path, name in names.items():
        package = name if path.endswith("/__init__.py") else name.rpartition(".")[0]
        for module in _imported(ast.parse(sources[path]), package, graph):
            if module in graph and module != name:
                graph[name].add(module)
    return graph


def _imported(tree: ast.Module, package: str, known: Graph) -> Iterator[str]:
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in (node for node in ast.walk(tree) if id(node) not in for_types):
        if isinstance(node, ast.Constant) and node.value in known:
            yield node.value
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                module = f"{base}.{alias.name}"
                yield module if module in known else base


def circles(graph: Graph) -> list[list[str]]:
    """The groups of modules that import each other, directly or through others of the group."""
    reached = {name: _reachable(graph, name) for name in graph}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def upward(graph: Graph, order: tuple[str, ...]) -> list[str]:
    """The imports "a -> b" inside phys4d of a folder that does not stand before the importing one in `order`."""
    place = {name: number for number, name in enumerate(order)}
    found = []
    for module, others in graph.items():
        own = module.split(".")[1:2]
        for other in sorted(others):
            folder = other.split(".")[1:2]
            if not own or not folder or own == folder or own[0] in ("kernels", "engine"):
                continue
            if folder[0] not in ("kernels", "engine") and place[folder[0]] >= place[own[0]]:
                found.append(f"{module} -> {other}")
    return found


def source_graph() -> Graph:
    """The graph of all modules, under the names by which they are imported."""
    sources = {}
    for path in files(*SOURCES):
        relative = path.relative_to(ROOT).as_posix()
        sources[relative if relative.startswith("phys4d/") else f"phys4d/{relative}"] = path.read_text()
    return import_graph(sources)


def test_no_modules_import_each_other_in_a_circle():
    graph = source_graph()
    assert len(graph) > 300
    found = circles(graph)
    arrows = [f"{a} -> {b}" for group in found for a in group for b in sorted(graph[a] & set(group))]
    assert not found, "imports in a circle: " + "; ".join(arrows)


def test_every_folder_of_the_subject_has_a_place_and_imports_only_lower_ones():
    graph = source_graph()
    folders = {module.split(".")[1] for module in graph if "." in module} - {"kernels", "engine"}
    assert folders == set(ORDER), "a new folder or module of phys4d needs a place in ORDER"
    assert not upward(graph, ORDER)


PLANTED = {
    "p/__init__.py": "from p.low.one import x",
    "p/low/__init__.py": "",
    "p/low/one.py": "from p.low import two",
    "p/low/two.py": "def later():\n    import p.high.three",
    "p/high/__init__.py": "",
    "p/high/three.py": "from ..low.one import x",
    "p/high/four.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.high import five\nimport os",
    "p/high/five.py": "from p.high.four import y",
}


def test_a_planted_circle_and_a_planted_import_upward_are_found():
    """Through an import inside a function and a relative one; an import for types alone closes no circle."""
    graph = import_graph(PLANTED)
    assert graph["p"] == {"p.low.one"} and graph["p.high.four"] == set() and graph["p.high.five"] == {"p.high.four"}
    assert circles(graph) == [["p.high.three", "p.low.one", "p.low.two"]]
    assert upward(graph, ("low", "high")) == ["p.low.two -> p.high.three"]
    assert circles(import_graph(PLANTED | {"p/low/two.py": "import p"})) == [["p", "p.low.one", "p.low.two"]]
    assert circles(import_graph(PLANTED | {"p/low/two.py": "import json"})) == []
    registry = {"p/low/two.py": "MODULES = ('p.high.three',)"}
    assert circles(import_graph(PLANTED | registry)) == [["p.high.three", "p.low.one", "p.low.two"]]


def test_kernels_import_torch_triton_numpy_and_themselves():
    allowed = {"torch", "triton", "numpy", *sys.stdlib_module_names}
    for path in files("kernels"):
        folder = path.relative_to(ROOT).parent.as_posix()  # these meet others' code, and only when asked to
        integration = inside(folder.replace("/", "."), "kernels.integrate") or folder == "kernels/attention/backends"
        for module, at_import in imports(path):
            if inside(module, "phys4d"):
                assert inside(module, "phys4d.kernels"), f"{path} imports {module}"
            elif not (integration and not at_import):
                assert module.split(".")[0] in allowed, f"{path} imports {module}"


def test_the_engine_imports_neither_kernels_nor_the_subject():
    for path in files("engine"):
        for module, _ in imports(path):
            if inside(module, "phys4d"):
                known = inside(module, "phys4d.engine") or module in ("phys4d", "phys4d.__version__")
                assert known, f"{path} imports {module}"


def test_the_folders_are_imported_through_phys4d_only():
    for path in files(*SOURCES, "tests"):
        for module, _ in imports(path):
            assert module.split(".")[0] not in LINKS, f"{path} imports {module}"


def test_every_outside_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = project["dependencies"] + [line for name in extras if name != "dev" for line in extras[name]]
    names = {re.split(r"[\s<>=!~\[;]", line)[0].lower() for line in declared}
    for path in files(*SOURCES):
        for module, _ in imports(path):
            top = module.split(".")[0]
            if path.name.startswith("test_") and top == "pytest":
                continue  # entries of a benchmark suite, which no module imports
            if top not in sys.stdlib_module_names and top != "phys4d":
                known = {top.lower(), top.lower().replace("_", "-"), DISTRIBUTION.get(top)} & names
                assert known, f"{path} imports {top}, which no extra of pyproject.toml installs"


def test_kernels_is_no_regular_package():
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would shadow Hugging Face's package `kernels`"
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("name", LINKS)
def test_the_links_are_links_and_committed_as_such(name):
    link = ROOT / "phys4d" / name
    assert link.is_symlink() and os.readlink(link) == f"../{name}"
    assert (link / "README.md").exists() or list(link.glob("*.py")), "an empty folder is absent from a clone"
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-s", f"phys4d/{name}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert listed.stdout.startswith("120000 ")


LIGHT = """
import sys, time
import torch
start = time.process_time()
import phys4d.kernels
parts = [name for name in sys.modules if name.startswith("phys4d.kernels.")]
assert not parts, parts
import phys4d.kernels.attention
seconds = time.process_time() - start
print(seconds)
print(*sorted(sys.modules))
"""


def test_importing_attention_is_light():
    run = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    seconds, names = run.stdout.splitlines()
    loaded = names.split()
    heavy = {
        "diffusers",
        "transformers",
        "peft",
        "pydantic",
        "rich",
        "av",
        "cv2",
        "mujoco",
        "moderngl",
        "nvidia",
    }
    assert not heavy & set(loaded)
    ours = [name for name in loaded if inside(name, "phys4d")]
    assert all(name == "phys4d" or inside(name, "phys4d.kernels") for name in ours), ours
    assert float(seconds) < 2.0, "imports beyond torch itself"


def test_importing_the_package_is_light():
    code = "import sys, phys4d; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
