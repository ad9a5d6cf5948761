"""Builds the native kernels with CMake, and installs without them where that is not possible.

PHYS4D_NATIVE chooses:
    auto   (default) CPU kernels, and CUDA kernels where nvcc is found; a part that cannot be built is
           left out, with one line that says why
    off    build nothing
    cpu    CPU kernels only; a failure stops the installation
    cuda   CPU and CUDA kernels; a failure stops the installation

The reason is also stored beside the kernels, where `phys4d doctor` reads it.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
NATIVE = Path("phys4d/kernels/native")
CHOICES = ("auto", "off", "cpu", "cuda")


class BuildError(Exception):
    """A native build that cannot be done; the message says why, in one line."""


def find_tool(*names: str) -> str | None:
    """The first of these programs beside the running Python (a virtual environment) or on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def torch_folder() -> Path:
    """Where the installed torch lies; found without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not visible to the build; use pip install --no-build-isolation")
    return Path(spec.origin).parent


def cxx_compiler() -> str:
    """The C++ compiler: $CXX if set, else the usual names."""
    asked = os.environ.get("CXX")
    names = (asked.split()[0],) if asked else ("c++", "g++", "clang++")
    found = find_tool(*names)
    if found is None:
        raise BuildError(f"no C++ compiler ({', '.join(names)}); on Debian: apt-get install -y g++")
    return found


def first_error(log: str) -> str:
    """The first error of a build log, in one line; CMake puts the reason into the line after."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    at = next((i for i, line in enumerate(lines) if "error" in line.lower()), len(lines) - 1)
    return " ".join(lines[at : at + 2]) if lines[at].endswith(":") else lines[at]


def cmake_build(build: Path, cuda: bool) -> Path:
    """Configures and compiles into `build`; returns the shared object."""
    torch = torch_folder()
    compiler = cxx_compiler()
    cmake = find_tool("cmake")
    if cmake is None:
        raise BuildError("no cmake; pip install cmake ninja")
    ninja, make = find_tool("ninja"), find_tool("make")
    if ninja is None and make is None:
        raise BuildError("neither ninja nor make; pip install ninja")
    generator = ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else ["-GUnix Makefiles"]
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    configure = [
        cmake, "-S", str(ROOT), "-B", str(build), *generator, "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_CXX_COMPILER={compiler}", f"-DTORCH_FOLDER={torch}",
        f"-DPHYS4D_CUDA={'ON' if cuda else 'OFF'}",
    ]  # fmt: skip
    log = build / "build.log"
    for command in (configure, [cmake, "--build", str(build)]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout, flush=True)
        with log.open("a") as file:
            file.write(done.stdout)
        if done.returncode:
            raise BuildError(f"{first_error(done.stdout)} (log: {log})")
    return build / "_C.so"


def build_native(choice: str, build: Path) -> tuple[Path | None, str]:
    """Builds what PHYS4D_NATIVE asks for: (shared object or None, one line on what was built or why not)."""
    if choice == "off":
        return None, "not built: PHYS4D_NATIVE=off"
    nvcc = find_tool("nvcc")
    if choice == "cuda" and nvcc is None:
        raise BuildError("PHYS4D_NATIVE=cuda, but there is no nvcc on PATH")
    try:
        if choice == "cpu":
            return cmake_build(build, cuda=False), "built for CPU"
        if nvcc is None:
            return cmake_build(build, cuda=False), "built for CPU; no nvcc, so not for CUDA"
        if choice == "cuda":
            return cmake_build(build, cuda=True), "built for CPU and CUDA"
        try:
            return cmake_build(build / "cuda", cuda=True), "built for CPU and CUDA"
        except BuildError as fault:
            return cmake_build(build / "cpu", cuda=False), f"built for CPU; CUDA failed: {fault}"
    except BuildError as fault:
        if choice != "auto":
            raise
        return None, f"not built: {fault}"


def sources_digest() -> str:
    """SHA-256 of the native sources, which `kernels/native/__init__.py` compares before it loads what was built."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / NATIVE / "src").iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class NativeBuild(build_ext):
    """Runs CMake once and puts _C.so and the record of the build beside kernels/native/__init__.py."""

    def run(self) -> None:
        choice = os.environ.get("PHYS4D_NATIVE", "auto")
        if choice not in CHOICES:
            raise SystemExit(f"PHYS4D_NATIVE={choice}: expected one of {', '.join(CHOICES)}")
        try:
            library, outcome = build_native(choice, Path(self.build_temp).resolve())
        except BuildError as fault:
            raise SystemExit(f"phys4d: native kernels not built: {fault}") from None
        in_place = self.inplace or self.editable_mode
        target = (ROOT if in_place else Path(self.build_lib)) / NATIVE
        target.mkdir(parents=True, exist_ok=True)
        (target / "_C.so").unlink(missing_ok=True)
        if library is not None:
            shutil.copyfile(library, target / "_C.so")
        (target / "_build.json").write_text(json.dumps({"outcome": outcome, "sources": sources_digest()}) + "\n")
        print(f"phys4d: native kernels {outcome}", flush=True)

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return []


class PlatformWheel(bdist_wheel):
    """The shared object uses no Python API: one wheel per platform serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=find_namespace_packages(
        include=["phys4d", "phys4d.*"], exclude=["*.__pycache__", "*.__pycache__.*"]
    ),
    ext_modules=[Extension("phys4d.kernels.native._C", sources=[])],
    cmdclass={"build_ext": NativeBuild, "bdist_wheel": PlatformWheel},
)
