"""The environment variables in which a launcher gives a process its rank, checked."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from phys4d.engine.errors import UserError

_TORCHRUN = ("RANK", "WORLD_SIZE")


class Place(NamedTuple):
    """Rank of this process among `world_size`, and its rank among those of its machine; 0 of 1 without a launcher."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


def place(names: tuple[str, str] = _TORCHRUN, environment: Mapping[str, str] = os.environ) -> Place:
    """The place that the launcher gave to this process.

    names: variables of rank and world size, by default torchrun's.
    environment: the variables.

    Raises UserError if one of both is missing, or they are not a rank and a number of processes.
    """
    given = [name for name in names if environment.get(name, "") != ""]
    if not given:
        return Place()
    if len(given) < len(names):
        missing = next(name for name in names if name not in given)
        raise UserError(f"{given[0]} is set in the environment and {missing} is not: start with torchrun, or unset it")
    rank, size = (_number(name, environment) for name in names)
    if not 0 <= rank < size:
        raise UserError(
            f"{names[0]}={rank} and {names[1]}={size} in the environment: expected a rank from 0 to "
            f"{max(size - 1, 0)}: start with torchrun, or unset both"
        )
    return Place(rank, size, _number("LOCAL_RANK", environment) if environment.get("LOCAL_RANK") else 0)


def is_first() -> bool:
    """Whether this process is rank 0, which alone writes and prints; an unusable environment counts as rank 0."""
    try:
        return place().rank == 0
    except UserError:
        return True


def check_meeting_point(environment: Mapping[str, str] = os.environ) -> None:
    """Raises UserError unless the environment says where the ranks meet, as torchrun does."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environment.get(name):
            raise UserError(f"{name} is not set in the environment, and WORLD_SIZE is above 1: start with torchrun")
    _number("MASTER_PORT", environment)


def _number(name: str, environment: Mapping[str, str]) -> int:
    text = environment[name]
    if not text.strip().isdecimal():
        raise UserError(f"{name}={text} in the environment: expected a whole number, 0 or more")
    return int(text)
