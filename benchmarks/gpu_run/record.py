"""The file of a slice: what its cases gave so far, with the provenance of the process that measured them.

    {"slice", "kind", "device", "dtype", "stand_in", "provenance", "kernels": {"compiled", "found", "seconds"},
     "cases": {name: {"state", "seconds", "predicted_seconds", "rows" or "reason"}}}

States: "done", with rows; "lost", with the reason, where the case crashed or did not end; "refused", with the reason,
where this environment lacks what the case needs. A case that is not listed, or is "waiting" for another slice, is left
for the next start.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

FINISHED = ("done", "lost", "refused")


class RecordError(Exception):
    """A file of a slice that this run cannot go on with; the message is one line."""


@dataclass
class Record:
    """The content of a slice's file.

    Attributes:
        file: its path.
        about: slice, kind, device, dtype, stand_in, provenance.
        cases: what each case gave.
        kernels: of ours: compiled, found in the cache, and the seconds of compiling.
    """

    file: Path
    about: dict[str, Any] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    kernels: dict[str, float] = field(default_factory=lambda: {"compiled": 0, "found": 0, "seconds": 0.0})

    @classmethod
    def read(cls, file: Path) -> Self:
        """The record in a file; an empty one where there is no file. Raises RecordError for a damaged file."""
        if not file.exists():
            return cls(file)
        try:
            content = json.loads(file.read_text())
            cases, kernels = content.pop("cases"), content.pop("kernels")
        except (ValueError, KeyError, AttributeError):
            raise RecordError(f"{file}: is no file of this run: choose another folder, or remove it") from None
        return cls(file, content, cases, kernels)

    def write(self) -> None:
        """Replaces the file at once: a kill leaves the old or the new content."""
        content = self.about | {"kernels": self.kernels, "cases": self.cases}
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(partial, self.file)

    def goes_on(self, about: dict[str, Any]) -> None:
        """Takes `about`, and refuses to mix results of two devices, two revisions, or a GPU and its stand-in.

        Raises RecordError with the first that differs.
        """
        for key, then, now in (*_same(self.about, about),):
            if then != now:
                raise RecordError(f"{self.file}: was begun with {key} {then}, not {now}: give another folder")
        self.about = about

    def finished(self, name: str) -> bool:
        """Whether a case needs no further start."""
        return self.cases.get(name, {}).get("state") in FINISHED

    def finish(self, name: str, state: str, seconds: float, predicted: float, **what: Any) -> None:
        """Enters the outcome of a case and writes the file."""
        self.cases[name] = {
            "state": state, "seconds": round(seconds, 2), "predicted_seconds": round(predicted, 2), **what,
        }  # fmt: skip
        self.write()

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all cases that are done."""
        return [row for case in self.cases.values() for row in case.get("rows", [])]


def _same(before: dict[str, Any], about: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    if not before:
        return []
    then, now = before["provenance"], about["provenance"]
    return [
        ("stand_in", before["stand_in"], about["stand_in"]), ("GPUs", then["gpus"], now["gpus"]),
        *((key, then[key], now[key]) for key in ("git_revision", "torch", "triton")),
    ]  # fmt: skip
