"""The command line of the run on a GPU: plan, run, rehearse, adopt."""

import argparse
import sys
from pathlib import Path

from phys4d.benchmarks.gpu_run import plan, supervisor
from phys4d.benchmarks.gpu_run.record import RecordError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit codes are those of `supervisor.run`, and 2 where the user's input is at fault."""
    parser = argparse.ArgumentParser(
        prog="python -m phys4d.benchmarks.gpu_run", description="every measurement on a GPU, in slices; docs/gpu-run.md"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("plan", help="slices, predicted minutes and needs; touches no GPU")
    shown.add_argument("--full", action="store_true", help="with all checks and rivals")
    names = [part.name for part in plan.slices()]
    for name, what in (("run", "run slices on this GPU"), ("rehearse", "run them in small without a GPU")):
        runs = commands.add_parser(name, help=what)
        runs.add_argument(
            "slices", nargs="*", metavar="SLICE", help=f"of {', '.join(names)}; default: all, in this order"
        )
        runs.add_argument("--out", type=Path, required=True, help="folder of the results; the same one goes on")
        runs.add_argument("--minutes", type=float, help="the most that this call may take")
        runs.add_argument("--full", action="store_true", help="with all checks and rivals")
        runs.add_argument("--again", action="store_true", help="also run the cases that were lost or refused")
        runs.add_argument("--revision", help="of the source, where it is no git checkout")
        if name == "rehearse":
            runs.add_argument("--plant", action="append", default=[], help="a fault, see stand_in.py")
            runs.add_argument("--least", type=float, help="seconds after which a case is given up")
    adopts = commands.add_parser("adopt", help="take the results of a GPU into benchmarks/results/ and the pages")
    adopts.add_argument("folder", type=Path)
    adopts.add_argument("--revision", help="of the source that was measured, where the run could not find it")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except RecordError as fault:
        print(f"phys4d: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("phys4d: stopped; the same command goes on", file=sys.stderr)
        return supervisor.LEFT


def _run(options: argparse.Namespace) -> int:
    if options.command == "plan":
        print(plan.table(options.full))
        return 0
    if options.command == "adopt":
        from phys4d.benchmarks.gpu_run import adopt

        for line in adopt.adopt(options.folder, options.revision):
            print(line)
        return 0
    rehearsal = options.command == "rehearse"
    try:
        slices = plan.named(options.slices, full=options.full, stand_in=rehearsal)
    except KeyError as unknown:
        raise RecordError(f"{unknown.args[0]}: no such slice: python -m phys4d.benchmarks.gpu_run plan") from None
    if options.again:
        supervisor.again(options.out, slices)
    call = supervisor.Run(
        options.out, options.full, options.minutes, rehearsal, options.plant if rehearsal else (), options.revision,
        options.least if rehearsal else None,
    )  # fmt: skip
    return supervisor.run(call, slices)


if __name__ == "__main__":
    sys.exit(main())
