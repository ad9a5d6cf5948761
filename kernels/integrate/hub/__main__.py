"""Writes the folder: python -m phys4d.kernels.integrate.hub --out DIR."""

import argparse
from pathlib import Path

from phys4d.kernels.integrate.hub.folder import write

parser = argparse.ArgumentParser(prog="python -m phys4d.kernels.integrate.hub", description=__doc__)
parser.add_argument(
    "--out", type=Path, required=True, help="folder of the kernel's repository; build/ in it is replaced"
)
build = write(parser.parse_args().out)
print(f"{build}: {sum(1 for _ in build.rglob('*.py'))} files; load it with kernels.get_local_kernel")
