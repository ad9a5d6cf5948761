"""The command line: one program, one subcommand per task. Each imports what it needs when it runs.

Exit codes: 0 done, 1 our fault, 2 the user's input is at fault, 3 stopped by a signal, and the line says what is kept
(a checkpoint, finished stages, finished clips) and how to go on, 4 a stage did not reach its gate, 130 stopped by a
signal and nothing is kept, 141 what reads the output has ended, as with `| head`. Signals are SIGTERM, SIGINT (Ctrl-C),
SIGHUP and SIGUSR1.
"""

import argparse
import io
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress

from phys4d import __version__
from phys4d.commands import data, datasets, evaluation, generation, measurements, probing, runs, viewing
from phys4d.engine import environment
from phys4d.engine.errors import FaultElsewhere, GateNotReached, Interrupted, RankLost, Stuck, UserError, printable
from phys4d.engine.faults import fault_line
from phys4d.engine.paths import expanded_options
from phys4d.engine.signals import Stopping, exit_code, stopped_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; without arguments (those of the process) as its last act."""
    _print_anything()
    options = build_parser().parse_args(arguments)
    with Stopping(last=arguments is None) as stopping:
        try:
            try:
                environment.place()
                expanded_options(options)
                code: int = options.command(options)
                sys.stdout.flush()
                return code
            finally:
                stopping.end()
        except (Exception, KeyboardInterrupt) as error:
            code = _ended(error, stopping)
            if isinstance(error, Stuck) and arguments is None:
                sys.stderr.flush()
                os._exit(code)
            return code


def _ended(error: BaseException, stopping: Stopping) -> int:
    """The exit code of a command that this exception ended, and its one line; raises what is our own fault."""
    if isinstance(error, FaultElsewhere):
        return 2
    if isinstance(error, BrokenPipeError) and _is_unread():
        return 141
    if isinstance(error, UserError):
        return _say(f"error: {error}", 2)
    if isinstance(error, GateNotReached):
        return _say(str(error), 4, every_rank=False)
    if isinstance(error, Interrupted):
        return _say(str(error), 3, every_rank=False)
    speechless = isinstance(error, RankLost) and f"{error}".startswith("rank 0")  # the rank that speaks for all
    if isinstance(error, RankLost) and stopping.received is None:
        line = f"{error}: {stopping.kept or 'what was being written is not kept'}"
        return _say(line, exit_code(stopping), every_rank=speechless)
    if isinstance(error, KeyboardInterrupt) or stopping.received is not None:
        # Another rank or a process of a pool may have ended first: then the error is that it is gone.
        return _say(stopped_line(stopping, error), exit_code(stopping), every_rank=speechless)
    fault = fault_line(error) if isinstance(error, OSError) else None
    if fault is None:
        raise error
    return _say(f"error: {UserError(fault)}", 2)


def _say(line: str, code: int, *, every_rank: bool = True) -> int:
    if every_rank or environment.is_first():
        with suppress(OSError):  # the terminal may have gone with the signal
            print(f"phys4d: {printable(line)}", file=sys.stderr)
    return code


def _is_unread() -> bool:
    """Whether what reads standard output has ended; what is still to be printed then goes nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not any(events & select.POLLERR for _, events in output.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True


def _print_anything() -> None:
    """What the terminal or log cannot encode is escaped (\\u30c7), in every line of the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def build_parser() -> argparse.ArgumentParser:
    """All subcommands with their options."""
    parser = argparse.ArgumentParser(
        prog="phys4d", description="Train and evaluate physics-consistent 4D world models."
    )
    parser.add_argument("--version", action="version", version=f"phys4d {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    for add in (
        runs.add_demo, datasets.add_simulate, datasets.add_label, data.add_data, runs.add_train,
        evaluation.add_evaluate, generation.add_generate, viewing.add_view, generation.add_export,
        probing.add_probe, measurements.add_bench, measurements.add_doctor,
    ):  # fmt: skip
        add(commands)
    return parser
