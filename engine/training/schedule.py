"""The stage scheduler: an order of stages in which each passes its output to the next, checked before the start."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from phys4d.engine.errors import UserError


def check_order(stages: Sequence[str], takes: Mapping[str, Sequence[str]], start: str) -> None:
    """Raises UserError unless every stage can start from the output of the previous stage.

    stages: names in order.
    takes: stage -> names of the stages whose output it can start from; "" means without input.
    start: name of the stage that wrote the input of the first stage, "" for none.
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
    *,
    before: Callable[[str, Path | None], None],
    after: Callable[[str], None],
) -> None:
    """Runs each stage whose output folder does not exist yet: before(stage, input folder), execute(stage, input
    folder), after(stage).

    An output folder must appear completely or not at all; this makes a run resumable stage by stage. An exception of
    `before` (another input than before) or `after` (a gate that is not reached) ends the run there.

    stages: names in order.
    outputs: stage -> output folder.
    execute: runs a stage.
    start: input folder of the first stage, None for none.
    before, after: called for each stage, also for those that are finished and not executed.
    """
    given = start
    for stage in stages:
        before(stage, given)
        if not outputs[stage].exists():
            execute(stage, given)
        after(stage)
        given = outputs[stage]
