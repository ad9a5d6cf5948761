"""The exceptions that the command line turns into exit codes instead of a traceback."""

import re
from pathlib import Path

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """Escapes control characters in text from outside (a path, a caption), so that it is one line without terminal
    commands.
    """
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


class UserError(Exception):
    """An error in the user's input (exit code 2).

    The message is one line: what is wrong: where (file, key or index): what to do. Control characters in it (from a
        file, for example) are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Stuck(UserError):
    """A thread of this process waits for what may never come (a disk that does not answer), so that the process cannot
    end in order: the command line leaves it at once, after the message.
    """


class FaultElsewhere(UserError):
    """Another rank raised UserError or OSError and prints it; this rank ends without a message."""

    def __init__(self, rank: int) -> None:
        super().__init__(f"stopped by a fault that rank {rank} reports")
        self.rank = rank


class Stopped(KeyboardInterrupt):
    """A signal arrived outside of a training step, or repeatedly: the work stops immediately.

    It is a KeyboardInterrupt, so that libraries that catch Exception do not catch it.
    """


class RankLost(Exception):
    """Another rank ended without a word (killed, or its machine is gone), so that a collective failed.

    The message says which one, and where this rank was.
    """


class GateNotReached(Exception):
    """The model of a finished stage does not meet the conditions for going on (exit code 4).

    stage: the last stage of the run that ran.
    line: the message: metric, value, condition and what can be done.
    """

    def __init__(self, stage: str, line: str) -> None:
        super().__init__(printable(line))
        self.stage = stage


class Interrupted(Exception):
    """A signal stopped the training after a checkpoint was written (exit code 3).

    stage, step: of the checkpoint.
    path: of the checkpoint.
    """

    def __init__(self, stage: str, step: int, path: Path) -> None:
        where = f"stopped by a signal in stage {stage} after step {step}"
        super().__init__(f"{where}: checkpoint {path}: --resume goes on from it")
        self.stage, self.step, self.path = stage, step, path
