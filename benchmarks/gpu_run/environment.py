"""What a process of the run finds around it: cache folders, and kernels that are in them already.

Triton and torch keep what they compiled below the home folder. Where that is missing or cannot be written, and the
user names no folder (TRITON_CACHE_DIR, TORCHINDUCTOR_CACHE_DIR), this run uses one in the temporary folder, which the
next call on the same machine finds again. A folder that TRITON_CACHE_DIR names may have been filled elsewhere, for this
GPU and this Triton: `Compilations` counts what was found there.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}


def caches(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that name cache folders, each set to one that can be written."""
    home = environment.get("HOME", "")
    usable = bool(home) and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK)
    spare = Path(tempfile.gettempdir()) / f"phys4d-{os.getuid()}"
    found = {}
    for variable, name in VARIABLES.items():
        if environment.get(variable):
            found[variable] = environment[variable]
        elif not usable:
            folder = spare / name
            folder.mkdir(parents=True, exist_ok=True)
            found[variable] = str(folder)
    if not usable:
        found |= {"HOME": str(spare), "USER": environment.get("USER", "phys4d")}  # torch names a folder after the user
        spare.mkdir(parents=True, exist_ok=True)
    return found


class Compilations:
    """Counts the kernels that Triton compiles in this process, those it finds in its cache, and the seconds.

    Attributes:
        limit: the most kernels that may be compiled before `exhausted`; None: any number.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.compiled, self.found, self.seconds = 0, 0, 0.0

    def listen(self) -> None:
        """Starts counting. Triton calls one listener: a second replaces the first."""
        import triton

        triton.knobs.compilation.listener = self._heard

    def _heard(self, *, cache_hit: bool, times: Any, **rest: Any) -> None:
        if cache_hit:
            self.found += 1
        else:
            self.compiled += 1
            self.seconds += times.total / 1e6

    def exhausted(self, more: int, before: int) -> bool:
        """Whether `more` kernels, after the `before` ones of earlier processes, would exceed the limit."""
        return self.limit is not None and before + self.compiled + more > self.limit
