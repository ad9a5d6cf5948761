"""Clips that a command leaves out of what it writes, because they cannot be used, and how many these may be."""

from collections.abc import Mapping

from phys4d.bad_clips import OnBad, most_bad, too_many
from phys4d.engine.data.tools.rank_shards import Limit
from phys4d.engine.location import Location


def limit(folder: Location, count: int, on_bad: OnBad) -> Limit | None:
    """The limit of training (`bad_clips.most_bad`) for a command that reads `count` clips; None for "stop".

    Raises UserError, which names one of the clips, where more are left out.
    """

    def check(bad: Mapping[str, str]) -> None:
        if len(bad) > most_bad(count):
            raise too_many(folder, len(bad), count, next(iter(bad.values())))

    return None if on_bad == "stop" else check
