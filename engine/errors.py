"""The two exceptions that the command line turns into exit codes instead of a traceback."""

from pathlib import Path


class UserError(Exception):
    """The user's input is at fault (exit code 2).

    The message is one line: what is wrong: where (file, key or index): what to do.
    """


class Interrupted(Exception):
    """A signal stopped the training after a checkpoint was written (exit code 3).

    Attributes: stage and step that the checkpoint holds, and its path.
    """

    def __init__(self, stage: str, step: int, path: Path) -> None:
        super().__init__(f"stopped by a signal in stage {stage} after step {step}: checkpoint {path}")
        self.stage, self.step, self.path = stage, step, path
