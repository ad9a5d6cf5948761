"""Checks of the machine code of every kernel, for GPUs that need not be present: registers, spills, tensor cores.

    python -m phys4d.benchmarks.machine_code [--arch 80 90 100] [--json FILE]
        [--case NAME ... | --geometry | --variety | --float32]

Every launch of the named cases is compiled ahead of time, with the arguments and options that it has on that GPU. The
exit code is 1 where a kernel spills registers, needs more shared memory than the GPU has, computes its products without
the tensor cores or loads 16-bit numbers one at a time. It also computes the occupancy of an SM and counts instructions
by kind. It checks neither the result of a kernel nor its speed.
"""

import argparse
import dataclasses
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from phys4d.benchmarks import launches, results
from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, FLOAT32, INT8, NORM_ROPE, REACH, VARIETY
from phys4d.benchmarks.compile_only import CompileOnlyDriver
from phys4d.benchmarks.occupancy import occupancy
from phys4d.benchmarks.sass import instruction_counts, mnemonics

SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}  # bytes of a program
PRODUCTS = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: r"UTC\w*MMA", 120: "HMMA"}
# Modules whose kernels multiply no matrices.
MATRIXLESS = (
    "norm_rope", "adaptive_norm", "warp", "depth", "flow", "scene_flow", "flow_warp", "splat", "chamfer", "curve",
    "tree", "int8.sums", "int8.quantise",
)  # fmt: skip
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel of a case.

    Attributes:
        stack: bytes of local memory per thread; spills: instructions that access it.
        shared_memory: bytes per program; tensor_memory: columns per program; warps: per program.
        programs_per_sm, warps_per_sm, limit: the occupancy of one SM.
        products, older_products: tensor core instructions of this architecture, and of sm_80 (HMMA).
        narrow: accesses of global memory that move a single 16-bit number.
        instructions: of `sass.instruction_counts`.
        seconds: of compiling.
        programs: of all launches of the case.
    """

    case: str
    kernel: str
    arch: int
    options: dict[str, Any]
    registers: int
    stack: int
    spills: int
    shared_memory: int
    tensor_memory: int
    warps: int
    programs_per_sm: int
    warps_per_sm: int
    limit: str
    products: int
    older_products: int
    narrow: int
    instructions: dict[str, Any]
    seconds: float
    programs: int = 0

    def faults(self) -> list[str]:
        """What fails the check, one line each."""
        found = []
        if self.stack or self.spills:
            found.append(f"spills: {self.stack} bytes of stack, {self.spills} accesses")
        if self.shared_memory > SHARED_MEMORY[self.arch]:
            found.append(f"{self.shared_memory} bytes of shared memory of {SHARED_MEMORY[self.arch]}")
        # Heads of more than 128 lanes use tiles of 32 rows, which only the older tensor core instruction can multiply.
        older = self.older_products and self.options.get("D", 0) > 128
        module, name = self.kernel.split(".")
        alone = name == "delta" or module in MATRIXLESS or self.kernel in MATRIXLESS
        if not self.products and not older and not alone and self.options.get("PRECISION") != "ieee":
            found.append("no tensor core instruction")
        if self.kernel == "int8.forward" and self.instructions["tensor_core"] <= self.products:  # IMMA, IGMMA
            found.append("no tensor core instruction of integers")
        if self.narrow:
            found.append(f"{self.narrow} global accesses of single 16-bit numbers")
        return found


def _compiled(arch: int, case: str, launches: Any) -> Iterator[Kernel]:
    """Compiles every kernel that `launches()` starts and runs none; from then on this process runs no kernel."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    made: dict[tuple[str, str], tuple[dict[str, Any], Any, float]] = {}
    programs: Counter[tuple[str, str]] = Counter()
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        begin = time.perf_counter()
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        name = f"{self.fn.__module__.split('.')[-1].removesuffix('_kernels')}.{self.fn.__name__}"
        made.setdefault((name, kernel.hash), (options, kernel, time.perf_counter() - begin))
        programs[name, kernel.hash] += math.prod(grid(options) if callable(grid) else grid)
        return kernel

    driver.set_active(CompileOnlyDriver(arch))
    JITFunction.run = compile_only
    try:
        launches()
    finally:
        JITFunction.run = run
    for (name, key), (options, kernel, seconds) in made.items():
        found = _inspect(case, name, arch, options, kernel, seconds)
        yield dataclasses.replace(found, programs=programs[name, key])


def _inspect(case: str, name: str, arch: int, options: dict[str, Any], kernel: Any, seconds: float) -> Kernel:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([_TOOLS / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )

    def used(what: str) -> int:
        found = re.search(rf"{what}:(\d+)", usage)
        assert found, usage
        return int(found[1])

    found = mnemonics(code)

    def count(pattern: str) -> int:
        return sum(re.match(pattern, name) is not None for name in found)

    shared, warps = kernel.metadata.shared, kernel.metadata.num_warps
    columns = getattr(kernel.metadata, "tmem_size", None) or 0
    held = occupancy(arch, used("REG"), shared, warps, columns)
    shown = {key: value for key, value in options.items() if key.isupper() or key.startswith("num_")}
    return Kernel(
        case, name, arch, shown, used("REG"), used("STACK"), count("LDL|STL"), shared, columns, warps, held.programs,
        held.warps, held.limit, count(PRODUCTS[arch]), count("HMMA"),
        len(re.findall(r"(?:ld|st)\.global[\w:.]*\.[bu]16", kernel.asm["ptx"])), instruction_counts(code),
        round(seconds, 2),
    )  # fmt: skip


def compile_case(name: str, arch: int) -> list[Kernel]:
    """Compiles all kernels of one case for one architecture: geometry and `FLOAT32` in float32, others in bfloat16."""
    if name in launches.GEOMETRY:
        return list(_compiled(arch, name, launches.GEOMETRY[name]))
    attention = {case.name: case for case in (*ATTENTION, *VARIETY, *REACH, *FLOAT32)}
    elementwise = {case.name: case for case in NORM_ROPE}
    if name in attention:
        dtype = torch.float32 if attention[name] in FLOAT32 else torch.bfloat16
        return list(_compiled(arch, name, lambda: launches.attention(attention[name], dtype)))
    if name in elementwise:
        return list(_compiled(arch, name, lambda: launches.norm_rope(elementwise[name], torch.bfloat16)))
    integer = {case.name: case for case in INT8}
    if name in integer:
        return list(_compiled(arch, name, lambda: launches.int8_attention(integer[name], torch.bfloat16)))
    adaptive = {case.name: case for case in ADAPTIVE_NORM}
    return list(_compiled(arch, name, lambda: launches.adaptive_norm(adaptive[name], torch.bfloat16)))


def table(kernels: list[dict[str, Any]]) -> str:
    """Markdown: registers, shared memory, warps and programs per SM of every kernel, one column per architecture."""
    archs = sorted({kernel["arch"] for kernel in kernels})
    rows: dict[tuple[str, str], dict[int, list[str]]] = {}
    for kernel in kernels:
        cell = f"{kernel['registers']} / {kernel['shared_memory'] / 1024:.0f} KiB / {kernel['warps']}"
        cell += f" / {kernel['programs_per_sm']}"
        rows.setdefault((kernel["case"], kernel["kernel"]), {}).setdefault(kernel["arch"], []).append(cell)
    head = "| case | kernel | " + " | ".join(f"sm_{arch}" for arch in archs) + " |"
    lines = [head, "|---" * (2 + len(archs)) + "|"]
    lines += [
        f"| {case} | {name} | " + " | ".join("<br>".join(cells.get(arch, [])) for arch in archs) + " |"
        for (case, name), cells in rows.items()
    ]
    return "\n".join(lines)


def of_cases(kernels: list[dict[str, Any]], cases: Iterable[Any]) -> list[dict[str, Any]]:
    """The kernels of these cases."""
    names = {case.name for case in cases}
    return [kernel for kernel in kernels if kernel["case"] in names]


def main() -> None:
    """Compiles and prints every kernel; exit code 1 where one fails the check."""
    names = [case.name for case in (*ATTENTION, *INT8)] + [case.name for case in (*NORM_ROPE, *ADAPTIVE_NORM)]
    parser = argparse.ArgumentParser(
        prog="python -m phys4d.benchmarks.machine_code", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100], choices=sorted(SHARED_MEMORY))
    parser.add_argument("--case", nargs="+", default=names, choices=names)
    parser.add_argument("--variety", action="store_true", help="every attention pattern at other head dimensions")
    parser.add_argument("--reach", action="store_true", help="heads that share keys, causal sequences and masks")
    parser.add_argument("--float32", action="store_true", help="every attention pattern in float32")
    parser.add_argument("--geometry", action="store_true", help="the kernels of 4D geometry")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: the interpreter compiles nothing")
    chosen = [case.name for case in VARIETY] if options.variety else options.case
    if options.reach:
        chosen = [case.name for case in REACH]
    if options.float32:
        chosen = [case.name for case in FLOAT32]
    if options.geometry:
        chosen = list(launches.GEOMETRY)
    jobs = [(name, arch) for arch in options.arch for name in chosen]
    found: list[Kernel] = []
    with ProcessPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        for kernels in pool.map(compile_case, *zip(*jobs, strict=True)):
            for kernel in kernels:
                found.append(kernel)
                blocks = " ".join(f"{k}={v}" for k, v in kernel.options.items() if k[0] == "B" and v is not True)
                print(
                    f"sm_{kernel.arch} {kernel.case:24} {kernel.kernel:22} {kernel.registers:3} registers "
                    f"{kernel.shared_memory:6} B shared, {kernel.warps} warps, "
                    f"{kernel.programs_per_sm:2} programs an SM by {kernel.limit}, {kernel.products:3} products, "
                    f"{kernel.seconds:4.1f} s  {blocks}  {'; '.join(kernel.faults())}".rstrip(),
                    flush=True,
                )
    if options.json:
        results.write(options.json, [asdict(kernel) for kernel in found])
    faulty = [kernel for kernel in found if kernel.faults()]
    print(f"{len(found)} kernels, {len(faulty)} at fault, triton {triton.__version__}")
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
