"""What the compiler makes of every kernel on machines that are not here: registers, spills, shared memory, products.

    python -m phys4d.benchmarks.machine_code [--arch 80 90 100] [--case NAME ...] [--json FILE]

Every launch of the named cases is compiled ahead of time, with the arguments and options that it would have on that
machine. It fails (exit 1) where a kernel spills registers, needs more shared memory than there is, takes its products
outside of the tensor cores or reads its tokens number by number. It also tells how many programs an SM holds at once
and counts instructions by kind. It shows neither that a kernel is right nor that it is fast.
"""

import argparse
import dataclasses
import json
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

from phys4d.benchmarks import launches
from phys4d.benchmarks.absent_gpu import AbsentGpu
from phys4d.benchmarks.instructions import counted, mnemonics
from phys4d.benchmarks.occupancy import occupancy

SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}  # bytes of a program
PRODUCTS = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: r"UTC\w*MMA", 120: "HMMA"}
# Modules whose kernels multiply no matrices.
MATRIXLESS = (
    "norm_rope", "adaptive_norm", "warp", "depth", "flow", "scene_flow", "flow_warp", "splat", "chamfer", "curve",
    "tree",
)  # fmt: skip
RESULT = Path(__file__).resolve().parent / "results" / "machine-code.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "attention-kernels.md"
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Kernel:
    """One compiled launch."""

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
    programs: int = 0  # of all launches of the case

    def faults(self) -> list[str]:
        """What is wrong with it."""
        found = []
        if self.stack or self.spills:
            found.append(f"spills: {self.stack} bytes of stack, {self.spills} accesses")
        if self.shared_memory > SHARED_MEMORY[self.arch]:
            found.append(f"{self.shared_memory} bytes of shared memory of {SHARED_MEMORY[self.arch]}")
        # Tiles of 32 rows, which heads of more than 128 lanes need, are for the tensor cores' older instruction.
        older = self.older_products and self.options.get("D", 0) > 128
        module, name = self.kernel.split(".")
        alone = name == "delta" or module in MATRIXLESS
        if not self.products and not older and not alone and self.options.get("PRECISION") != "ieee":
            found.append("no tensor core instruction")
        if self.narrow:
            found.append(f"{self.narrow} global accesses of single 16-bit numbers")
        return found


def _compiled(arch: int, case: str, launches: Any) -> Iterator[Kernel]:
    """Compiles every kernel that `launches()` starts, in place of running it; from then on nothing runs here."""
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

    driver.set_active(AbsentGpu(arch))
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
        len(re.findall(r"(?:ld|st)\.global[\w:.]*\.[bu]16", kernel.asm["ptx"])), counted(code), round(seconds, 2),
    )  # fmt: skip


def compile_case(name: str, arch: int) -> list[Kernel]:
    """Every kernel of one named case for one architecture, in bfloat16; geometry in float32."""
    from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, NORM_ROPE, VARIETY

    if name in launches.GEOMETRY:
        return list(_compiled(arch, name, launches.GEOMETRY[name]))
    attention = {case.name: case for case in (*ATTENTION, *VARIETY)}
    elementwise = {case.name: case for case in NORM_ROPE}
    if name in attention:
        return list(_compiled(arch, name, lambda: launches.attention(attention[name], torch.bfloat16)))
    if name in elementwise:
        return list(_compiled(arch, name, lambda: launches.norm_rope(elementwise[name], torch.bfloat16)))
    adaptive = {case.name: case for case in ADAPTIVE_NORM}
    return list(_compiled(arch, name, lambda: launches.adaptive_norm(adaptive[name], torch.bfloat16)))


def table(kernels: list[dict[str, Any]]) -> str:
    """Markdown: registers, shared memory, warps and programs of an SM of every kernel, one column per architecture."""
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
    """Those of some named cases."""
    names = {case.name for case in cases}
    return [kernel for kernel in kernels if kernel["case"] in names]


def adopt(kernels: list[Kernel]) -> None:
    """Keeps what was found under benchmarks/results/ and shows it in the docs, beside what to expect of it."""
    from phys4d.benchmarks import elementwise_page, predictions
    from phys4d.benchmarks.cases import ATTENTION
    from phys4d.benchmarks.readme import filled

    found = [asdict(kernel) for kernel in kernels]
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), "machine code", table(of_cases(found, ATTENTION))))
    predictions.write()
    elementwise_page.write()


def main() -> None:
    """Compiles and prints; exit 1 where a kernel is at fault."""
    from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, NORM_ROPE, VARIETY

    names = [case.name for case in (*ATTENTION, *NORM_ROPE, *ADAPTIVE_NORM)]
    parser = argparse.ArgumentParser(
        prog="python -m phys4d.benchmarks.machine_code", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100], choices=sorted(SHARED_MEMORY))
    parser.add_argument("--case", nargs="+", default=names, choices=names)
    parser.add_argument("--variety", action="store_true", help="every pattern at other head dimensions")
    parser.add_argument("--geometry", action="store_true", help="the kernels of 4D geometry")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument("--adopt", action="store_true", help="keep it, and fill the tables of its page in docs/")
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: its kernels are not compiled")
    chosen = [case.name for case in VARIETY] if options.variety else options.case
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
        options.json.write_text(json.dumps([asdict(kernel) for kernel in found], indent=1) + "\n")
    if options.adopt and options.geometry:
        from phys4d.benchmarks import geometry_page

        geometry_page.adopt([asdict(kernel) for kernel in found])
    elif options.adopt and not options.variety:
        adopt(found)
    faulty = [kernel for kernel in found if kernel.faults()]
    print(f"{len(found)} kernels, {len(faulty)} at fault, triton {triton.__version__}")
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
