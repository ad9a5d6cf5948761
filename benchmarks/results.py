"""The files that benchmarks write: rows as JSON with their provenance. benchmarks/results/ holds the committed ones."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).resolve().parent / "results"


def committed(name: str) -> Any:
    """The parsed content of a committed JSON file, named by its path below benchmarks/results/."""
    return json.loads((COMMITTED / name).read_text())


def write(file: Path, result: Any) -> None:
    """Writes a result as JSON and makes the folder where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")


def gpu_folder(gpu: str) -> str:
    """The folder below benchmarks/results/ of what a GPU measured: NVIDIA H200 gives h200."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().removeprefix("nvidia")).strip("-")


def machine(provenance: Mapping[str, Any], device: str = "cpu") -> str:
    """The device of a measurement: the first GPU for "cuda", else the number of cores and the CPU."""
    return str(provenance["gpus"][0]) if device == "cuda" else f"{provenance['cores']} cores of {provenance['cpu']}"


def version(provenance: Mapping[str, Any]) -> str:
    """The torch version, the first 12 digits of the git revision and the day of a measurement."""
    revision, day = str(provenance["git_revision"])[:12], provenance["date"][:10]
    return f"torch {provenance['torch']}, revision {revision}, {day}"


def origin(provenance: Mapping[str, Any], device: str = "cpu") -> str:
    """Device, versions and day of a measurement, for the line below a table."""
    return f"{machine(provenance, device)}, {version(provenance)}"


def load_during(result: Mapping[str, Any]) -> str:
    """The system's load average (runnable processes, over one minute) before and after a run of `cpu_suite`."""
    before, after = (result["load"][when][0] for when in ("before", "after"))
    return f"load {before:.1f} to {after:.1f}"
