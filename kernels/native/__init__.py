"""Native (C++ and CUDA) operators behind the torch stable ABI, where they were built.

Importing this package loads the shared object `_C.so`, if there is one, into torch: its operators are then in
`torch.ops.phys4d`. Each operator's shapes (fake), gradient and autocast rule are registered beside its public function,
not here. This package imports nothing of phys4d.
"""

import json
from pathlib import Path

import torch

__all__ = ["compiled_for", "status"]

_FOLDER = Path(__file__).parent


def _load() -> tuple[bool, str]:
    """Loads _C.so; returns whether it is usable, and one line: what was built, or why it is absent."""
    record, library = _FOLDER / "_build.json", _FOLDER / "_C.so"
    outcome = json.loads(record.read_text())["outcome"] if record.exists() else "not built: never attempted"
    if not library.exists():
        return False, outcome
    try:
        torch.ops.load_library(str(library))
    except OSError as fault:
        return False, f"{library.name} does not load into torch {torch.__version__}: {fault}"
    return True, outcome


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
