"""The subcommands of `phys4d`: their options, and the functions that run them and return an exit code."""

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # argparse gives it no public name
