"""`python -m phys4d`, also under torchrun."""

import sys

from phys4d.cli import main

sys.exit(main())
