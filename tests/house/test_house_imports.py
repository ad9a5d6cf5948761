"""Who may import whom, read off the source."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("kernels", "engine", "benchmarks", "phys4d")
LINKS = ("kernels", "engine", "benchmarks")
# Where a module's name is not that of its distribution.
DISTRIBUTION = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "flash_attn": "flash-attn-4",
    "mujoco": "mujoco-core",
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


def test_nobody_imports_the_folders_by_their_top_level_names():
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
                continue  # entries of a benchmark suite, which nobody imports
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
start = time.perf_counter()
import phys4d.kernels
parts = [name for name in sys.modules if name.startswith("phys4d.kernels.")]
assert not parts, parts
import phys4d.kernels.attention
seconds = time.perf_counter() - start
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
