"""What the processors and blocks of one transformer have in common."""

from dataclasses import dataclass, field
from typing import Any

from phys4d.kernels.integrate.diffusers.divided import DividedTokens
from phys4d.kernels.integrate.diffusers.rotation import Rotation


@dataclass(eq=False)
class Setting:
    """The options of one acceleration, and what happened in its calls.

    Attributes:
        backend: for `attention`.
        passed: path -> why a call went to the model's own code.
        called: path -> the norms that a call did not bypass, and why.
        rotation: the tables of the transformer's angles.
        hooks: objects with `undo`, placed on the transformer.
        divided: the division of its tokens over a process group; None where each process holds all of them.
    """

    backend: str
    passed: dict[str, str] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)
    rotation: Rotation = field(default_factory=Rotation)
    hooks: list[Any] = field(default_factory=list)
    divided: DividedTokens | None = None

    def pass_on(self, path: str, why: str) -> None:
        """Notes why a call goes to the model's own code; ValueError where tokens are divided, which that cannot."""
        if self.divided is not None:
            raise ValueError(f"{path}: with a group the model's own code cannot serve: {why}")
        self.passed.setdefault(path, why)
