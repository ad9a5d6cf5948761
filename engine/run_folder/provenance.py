"""Provenance of results: revision, versions, machine, date and command; and peak memory."""

import datetime
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from phys4d.engine import environment


def provenance() -> dict[str, Any]:
    """Provenance of a result: revision, versions, machine and date, as JSON values.

    git_revision ends in "-dirty" if tracked files were changed and is None outside a checkout; a version is None if the
    package is absent. date is UTC, ISO 8601. In command, absolute paths are reduced to their last part, since they are
    specific to the machine; config.toml of a run contains them in full.
    """
    versions = {name: _version(name) for name in ("phys4d", "torch", "triton", "numpy", "diffusers")}
    return {
        "git_revision": _git_revision(),
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "world_size": environment.place().world_size,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join([_program(), *map(_without_place, sys.argv[1:])]),
    }


def peak_rss_mb() -> float:
    """Peak resident memory in MiB of this process plus the largest of its finished children."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + children) / 1024


def _program() -> str:
    """The name of the program without its folder."""
    path = Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def _without_place(argument: str) -> str:
    """The argument with absolute paths reduced to their last part: init=/a/b/c becomes init=c."""
    return re.sub(r"(^|[=,\[\"'])/(?:[^/\s=,]+/)*", r"\1", argument)


def _git_revision() -> str | None:
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # fails for a copy inside an unrelated checkout
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", None)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
