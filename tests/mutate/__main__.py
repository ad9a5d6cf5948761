"""python -m tests.mutate: plants small faults in the numerical code and runs the fast tests that should notice.

Exit code 1 where a survivor is not explained in survivors.toml, or more than 5 % of the mutants survive; with --named,
where a fault of named.toml survives.
"""

import argparse
import random
import sys
import time
from pathlib import Path

from tests.mutate.modules import MODULES
from tests.mutate.mutations import Mutant, mutants
from tests.mutate.named import run_named
from tests.mutate.report import Found, reasons, table, verdict, write
from tests.mutate.server import SURVIVED, outcomes, warm

ROOT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Runs the mutants of the modules asked for."""
    options = _options().parse_args(arguments)
    if options.named:
        warm()
        return 1 if run_named(ROOT) else 0
    modules = [name for name in MODULES if not options.module or any(part in name for part in options.module)]
    if not modules:
        print(f"--module {' '.join(options.module)}: no such module in tests/mutate/modules.py", file=sys.stderr)
        return 2
    chosen = _chosen(modules, options.sample, options.seed)
    if options.list:
        for module, some in chosen.items():
            for m in some:
                print(f"{module}:{m.line}:{m.column}: {m.change}")
        return 0
    warm()
    found, known = [], reasons()
    end = time.monotonic() + 60 * options.budget
    for module, some in chosen.items():
        found.append(_run(module, some, end))
        if options.out:
            write(found, known, options.out)
    print(table(found, known))
    partial = options.sample is not None or any(f.run < f.total for f in found)
    if fault := verdict(found, known, sampled=partial):
        print(fault, file=sys.stderr)
    return 1 if fault else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--module", action="append", help="part of a module's path; may be given several times")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="MINUTES", help="then stop")
    parser.add_argument("--named", action="store_true", help="run the faults of named.toml in place of mutants")
    parser.add_argument("--list", action="store_true", help="print the mutants, run none")
    parser.add_argument("--sample", type=int, metavar="N", help="run N mutants drawn from all modules")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for mutants.md and mutants.json")
    return parser


def _chosen(modules: list[str], sample: int | None, seed: int) -> dict[str, list[Mutant]]:
    """The mutants to run, by module; modules without any are left out."""
    every = [(module, m) for module in modules for m in mutants((ROOT / module).read_text())]
    if sample is not None and sample < len(every):
        drawn = set(random.Random(seed).sample(range(len(every)), sample))
        every = [pair for at, pair in enumerate(every) if at in drawn]
    return {name: some for name in modules if (some := [m for module, m in every if module == name])}


def _run(module: str, some: list[Mutant], end: float) -> Found:
    found, start = Found(module, len(some)), time.monotonic()
    if start > end:
        return found
    for mutant, code in outcomes(ROOT, module, MODULES[module], some):
        found.run += 1
        if code == SURVIVED:
            found.survivors.append(mutant)
            print(f"survived {module}:{mutant.line}:{mutant.column}: {mutant.change}", flush=True)
        if time.monotonic() > end:
            break
    found.seconds = round(time.monotonic() - start, 1)
    print(f"{module}: {found.run} of {found.total} mutants, {len(found.survivors)} survived", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
