"""Runs a script that does not know phys4d with the backend "phys4d" registered.

    DIFFUSERS_ATTN_BACKEND=phys4d python -m phys4d.kernels.integrate.diffusers.run SCRIPT [ARGUMENT ...]

Without the variable the backend is there, and the script decides. The report is printed at the end, to stderr.
"""

import runpy
import sys
from pathlib import Path

from phys4d.kernels.integrate.diffusers.dispatcher import register_backend


def main() -> int:
    """Runs the script as Python would; 2 without one."""
    if len(sys.argv) < 2:
        print("usage: python -m phys4d.kernels.integrate.diffusers.run SCRIPT [ARGUMENT ...]", file=sys.stderr)
        return 2
    report = register_backend()
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        print(report, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
