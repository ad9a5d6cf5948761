"""The stage scheduler: an order in which each stage hands its output to the next, checked before it starts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from phys4d.engine.errors import UserError


def check_order(stages: Sequence[str], takes: Mapping[str, Sequence[str]], start: str) -> None:
    """UserError unless every stage can take what the one before it writes.

    takes: by stage, the names of the stages whose output it can start from; "" stands for starting from nothing.
    start: whose output the first stage is given.
    """
    if len(set(stages)) != len(stages):
        raise UserError(f"stages: {list(stages)} names a stage twice: name each once")
    for stage, given in zip(stages, (start, *stages), strict=False):
        if given not in takes[stage]:
            wanted = " or ".join(repr(t) if t else "nothing (no init)" for t in takes[stage])
            got = repr(given) if given else "nothing (no init)"
            raise UserError(f"stages: {stage!r} starts from the output of {wanted}, and would be given {got}")


def run_in_order(
    stages: Sequence[str],
    outputs: Mapping[str, Path],
    execute: Callable[[str, Path | None], None],
    start: Path | None,
    after: Callable[[str], None],
) -> None:
    """Runs each stage whose output folder does not exist yet: execute(stage, input folder), then after(stage).

    An output folder must appear complete or not at all; that is what makes a run resumable stage by stage.
    """
    given = start
    for stage in stages:
        if not outputs[stage].exists():
            execute(stage, given)
        after(stage)
        given = outputs[stage]
