"""Native (C++ and CUDA) operators behind the torch stable ABI, where they were built.

Importing this package loads the shared object `_C.so`, if there is one, into torch: its operators are then in
`torch.ops.phys4d`. Each operator's shapes (fake), gradient and autocast rule are registered beside its public function,
not here. This package imports nothing of phys4d. What was built from other sources than those beside it, as after an
update of a checkout, is not loaded, and a warning says so.
"""

import hashlib
import json
import warnings
from pathlib import Path

import torch

__all__ = ["compiled_for", "status"]

_FOLDER = Path(__file__).parent


def _load() -> tuple[bool, str]:
    """Loads _C.so; returns whether it is usable, and one line: what was built, or why it is absent."""
    record, library = _FOLDER / "_build.json", _FOLDER / "_C.so"
    built = json.loads(record.read_text()) if record.exists() else {"outcome": "not built: never attempted"}
    outcome: str = built["outcome"]
    if not library.exists():
        return False, outcome
    if (_FOLDER / "src").is_dir() and built.get("sources") != _sources_digest():
        again = "run make venv, or pip install --no-build-isolation -e ."
        fault = f"built from other sources than kernels/native/src: {again}"
        warnings.warn(f"phys4d: native kernels {fault}; until then the definitions in torch compute", stacklevel=2)
        return False, fault
    try:
        torch.ops.load_library(str(library))
    except OSError as fault:
        return False, f"{library.name} does not load into torch {torch.__version__}: {fault}"
    return True, outcome


def _sources_digest() -> str:
    """As in setup.py: SHA-256 of names and bytes of the sources."""
    digest = hashlib.sha256()
    for file in sorted((_FOLDER / "src").iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


_STATUS = _load()


def status() -> tuple[bool, str]:
    """Whether the native operators are usable, and one line: what was built, or why they are absent."""
    return _STATUS


def compiled_for(operator: str, device: str) -> bool:
    """Whether the native operator was compiled for this kind of device.

    Args:
        operator: qualified name, for example "phys4d::tree_search".
        device: "cpu" or "cuda".
    """
    return _STATUS[0] and torch._C._dispatch_has_kernel_for_dispatch_key(operator, device.upper())
