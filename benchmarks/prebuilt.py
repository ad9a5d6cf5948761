"""Kernels compiled on a machine without a GPU and brought, in one file, to one that has it.

    python -m phys4d.benchmarks.prebuilt fill FILE [--arch 90] [--case NAME ...]
    python -m phys4d.benchmarks.prebuilt unpack FILE
    python -m phys4d.benchmarks.prebuilt check [--arch 90] [--case NAME ...]

`fill` makes the calls of `named_calls`, forward and backward of every named case, with a driver for a GPU that need not
be there, and packs what Triton's cache then holds of them: machine code, and for Triton 3.6 the launchers, which it
compiles with a C compiler. `unpack` puts it into Triton's cache folder (TRITON_CACHE_DIR); it refuses a file whose
Triton or ptxas is another than the installed one, since Triton would not find its entries. `check` makes the same calls
and counts the kernels that the cache lacks; its exit code is 1 where there are any.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

import triton

from phys4d.benchmarks import named_calls
from phys4d.benchmarks.compile_only import CompileOnlyDriver

ABOUT = "about.json"
KEPT = (".cubin", ".json")  # of a kernel's files, those that a launch needs


@dataclass
class Used:
    """What a run used of Triton's cache.

    Attributes:
        kernels: per specialisation its source and metadata, by its key in the cache.
        files: those that a launch needs.
        compiled: how many specialisations were not in the cache.
        by_kernel: specialisations by the kernel's name.
    """

    kernels: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    compiled: int = 0
    by_kernel: Counter[str] = field(default_factory=Counter)

    def add(self, *, src: Any, metadata: Any, metadata_group: dict[str, str], times: Any, cache_hit: bool) -> None:
        """Triton's listener: called once for every specialisation that a process compiles or finds in the cache."""
        self.compiled += not cache_hit
        if metadata["hash"] not in self.kernels:
            self.kernels[metadata["hash"]] = src, metadata
            self.by_kernel[f"{src.fn.__module__.split('.')[-1].removesuffix('_kernels')}.{src.name}"] += 1
            self.files += [Path(path) for path in metadata_group.values() if path.endswith(KEPT)]


def identity(arch: int) -> dict[str, str]:
    """Everything in a key of Triton's cache that a machine determines: Triton's files, ptxas, environment variables."""
    from triton._C.libtriton import get_cache_invalidating_env_vars
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend
    from triton.runtime.cache import triton_key

    return {
        "arch": str(arch),
        "triton": triton.__version__,
        "triton files": hashlib.sha256(triton_key().encode()).hexdigest(),
        "ptxas": make_backend(GPUTarget("cuda", arch, 32)).hash(),
        "environment": str(sorted(get_cache_invalidating_env_vars().items())),
        "python": str(sysconfig.get_config_var("SOABI")),
    }


def use(cases: list[str], arch: int) -> Used:
    """Makes the calls of the cases; compiles what Triton's cache does not hold, and runs no kernel."""
    from triton.runtime import driver

    used = Used()
    driver.set_active(CompileOnlyDriver(arch))
    calls = named_calls.calls()
    with mock.patch.object(triton.knobs.compilation, "listener", used.add), named_calls.kernels_on_meta():
        for name in cases:
            begin, before = time.perf_counter(), used.compiled
            calls[name]()
            print(f"{name:24} {used.compiled - before:3} compiled, {time.perf_counter() - begin:5.1f} s", flush=True)
    return used


def launchers(used: Used) -> list[Path]:
    """The shared objects that Triton's driver compiles with a C compiler, for these kernels; none is loaded.

    Triton 3.6 compiles one for every signature of a kernel, all versions one for the driver.
    """
    from triton.backends.nvidia import driver
    from triton.runtime import build

    found: dict[Path, None] = {}

    def load(name: str, path: str) -> Any:
        found[Path(path)] = None
        return mock.MagicMock()

    with _without_libcuda(), mock.patch.object(build, "_load_module_from_path", load):
        driver.CudaUtils()
        if hasattr(driver, "make_launcher"):
            for source, metadata in used.kernels.values():
                driver.CudaLauncher(source, _Attributes(metadata))
    return list(found)


class _Attributes:
    """The items of a dictionary as attributes."""

    def __init__(self, items: dict[str, Any]) -> None:
        self.__dict__.update(items)


@contextmanager
def _without_libcuda() -> Iterator[None]:
    """Lets Triton link against a libcuda.so.1 of empty functions; the true one is taken when the result is loaded."""
    from triton.backends.nvidia import driver

    sources = (Path(driver.dirname) / name for name in ("driver.c", "driver.py"))
    names = sorted({name for source in sources for name in re.findall(r"\bcu[A-Z]\w*", source.read_text())})
    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder) / "stub.c"
        stub.write_text("".join(f"void {name}(void) {{}}\n" for name in names))
        library = f"{folder}/libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, stub], check=True)
        with (
            mock.patch.object(driver, "libcuda_dirs", lambda: [folder]),
            mock.patch.object(driver, "library_dirs", lambda: [driver.libdevice_dir, folder]),
        ):
            yield


def pack(file: Path, files: list[Path], about: dict[str, Any]) -> None:
    """Writes the files, each in a folder named by its key, and `about`, to a compressed archive."""
    with tarfile.open(file, "w:xz") as archive:
        text = json.dumps(about, indent=1).encode()
        entry = tarfile.TarInfo(ABOUT)
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
        for path in sorted(files):
            archive.add(path, f"{path.parent.name}/{path.name}")


def unpack(file: Path) -> int:
    """Puts the entries of an archive into Triton's cache folder, and returns the number of kernels.

    Triton keeps with every kernel the absolute paths of its files; they are written anew, for this folder.

    Raises:
        ValueError: the file was made by another Triton or ptxas, with other environment variables, or is no archive of
            `pack`.
    """
    folder = Path(triton.knobs.cache.dir)
    with tarfile.open(file) as archive:
        members = {member.name: member for member in archive if member.isfile()}
        if ABOUT not in members:
            raise ValueError(f"{file}: holds no {ABOUT}")
        about = json.load(archive.extractfile(members.pop(ABOUT)))  # type: ignore[arg-type]
        here = identity(int(about["identity"]["arch"]))
        for what, value in about["identity"].items():
            if here[what] != value:
                raise ValueError(f"{file}: made with another {what} ({value}) than is here ({here[what]})")
        groups: dict[Path, dict[str, str]] = {}
        for name, member in members.items():
            parts = PurePosixPath(name).parts
            if len(parts) != 2 or ".." in parts:
                raise ValueError(f"{file}: unexpected entry {name}")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
            if path.suffix in KEPT:
                groups.setdefault(path.parent, {})[path.name] = str(path)
    for place, paths in groups.items():
        metadata = next(name for name in paths if name.endswith(".json"))
        (place / f"__grp__{metadata}").write_text(json.dumps({"child_paths": paths}))
    return len(groups)


def main() -> None:
    """Exit code 1 where `check` finds a kernel missing, 2 where `unpack` refuses a file."""
    names = list(named_calls.calls())
    parser = argparse.ArgumentParser(
        prog="python -m phys4d.benchmarks.prebuilt", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("fill", "unpack", "check"):
        sub = commands.add_parser(command)
        if command != "check":
            sub.add_argument("file", type=Path)
        if command != "unpack":
            sub.add_argument("--arch", type=int, default=90, help="compute capability, 90 for 9.0")
            sub.add_argument("--case", nargs="+", default=names, choices=names)
    options = parser.parse_args()
    if options.command == "unpack":
        try:
            print(f"{unpack(options.file)} kernels put into {triton.knobs.cache.dir}")
        except ValueError as why:
            print(why, file=sys.stderr)
            sys.exit(2)
        return
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: the interpreter compiles nothing")
    used = use(options.case, options.arch)
    shown = ", ".join(f"{name} {number}" for name, number in sorted(used.by_kernel.items()))
    print(f"{len(used.kernels)} specialisations, {used.compiled} compiled: {shown}")
    if options.command == "check":
        sys.exit(1 if used.compiled else 0)
    made = launchers(used)
    pack(options.file, used.files + made, {"identity": identity(options.arch), "cases": options.case})
    whole = sum(path.stat().st_size for path in used.files + made)
    print(
        f"{options.file}: {options.file.stat().st_size / 2**20:.2f} MiB, unpacked {whole / 2**20:.2f} MiB, "
        f"{len(used.kernels)} kernels and {len(made)} launchers"
    )


if __name__ == "__main__":
    main()
