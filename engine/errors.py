"""The exceptions that the command line turns into exit codes instead of a traceback."""

import re
from pathlib import Path

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """Text that comes from outside (a path, a caption), with its control characters escaped: one line, no commands."""
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


class UserError(Exception):
    """The user's input is at fault (exit code 2).

    The message is one line: what is wrong: where (file, key or index): what to do. Control characters in it
    (from a file, say) are escaped, so that it stays one line and can be printed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class FaultElsewhere(UserError):
    """Another process met the UserError or OSError, and prints its line; this one ends with it, silently."""

    def __init__(self, rank: int) -> None:
        super().__init__(f"stopped by a fault that rank {rank} reports")


class Stopped(KeyboardInterrupt):
    """A signal came where no step of training can be ended first, or came again: the work stops here.

    A KeyboardInterrupt, so that libraries which catch every Exception let it pass.
    """


class Interrupted(Exception):
    """A signal stopped the training after a checkpoint was written (exit code 3).

    Attributes: stage and step that the checkpoint holds, and its path.
    """

    def __init__(self, stage: str, step: int, path: Path) -> None:
        where = f"stopped by a signal in stage {stage} after step {step}"
        super().__init__(f"{where}: checkpoint {path}: --resume goes on from it")
        self.stage, self.step, self.path = stage, step, path
