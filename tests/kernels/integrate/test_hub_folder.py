"""The folder for Hugging Face's `kernels`: complete without phys4d, and right where it is loaded without it."""

import ast
import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.hub import write

PROGRAM = Path(__file__).with_name("hub_loaded.py")
OPTIONAL = {"flash_attn", "natten", "xformers"}  # backends of attention that are looked for when asked for


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def variant(folder):
    return folder / "build" / "torch-universal"


def outside(path: Path) -> set[str]:
    """Packages that a file imports by absolute name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names)


def test_nothing_outside_torch_and_triton_is_imported(variant):
    files = list(variant.rglob("*.py"))
    assert len(files) > 40
    assert set().union(*map(outside, files)) <= {"torch", "triton", "numpy"} | OPTIONAL


def test_the_metadata_describe_the_files(folder, variant):
    metadata = json.loads((variant / "metadata.json").read_text())
    assert metadata["id"].isidentifier() and (metadata["name"], metadata["version"]) == ("phys4d", 1)
    written = {str(path.relative_to(variant)): path for path in variant.rglob("*") if path.is_file()}
    del written["metadata.json"]
    assert metadata["digest"]["files"] == {
        name: base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode() for name, path in written.items()
    }
    assert "library_name: kernels" in (folder / "README.md").read_text()


def test_writing_again_gives_the_same_and_removes_what_was_there(folder, variant):
    before = (variant / "metadata.json").read_text()
    (variant / "old.py").write_text("")
    assert write(folder) == variant
    assert (variant / "metadata.json").read_text() == before and not (variant / "old.py").exists()


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    """Lines of the program, run in Triton's interpreter from another folder."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder)], cwd=tmp_path_factory.mktemp("elsewhere"), capture_output=True,
        text=True, timeout=240, env=environment | {"TRITON_INTERPRET": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_results_and_gradients_without_phys4d_are_torchs(results):
    assert results[0] in ("loaded by kernels", "loaded by importlib")
    compared = [line.split() for line in results[1:]]
    assert len(compared) == 9
    for name, error, tolerance in compared:
        assert float(error) <= float(tolerance), name


@pytest.mark.parametrize("inside", [".", "phys4d"])
def test_it_loads_beside_phys4d_under_a_name_of_its_own(variant, inside):
    """Also by the folder of the kernel's name, which older versions of `kernels` load."""
    spec = importlib.util.spec_from_file_location(f"hub_{len(inside)}", variant / inside / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    q, k, v = torch.randn(3, 1, 5, 2, 8).unbind()
    assert torch.equal(module.attention(q, k, v), attention(q, k, v))
    assert module.attention is not attention and "layers" in module.__all__
