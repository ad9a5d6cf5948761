"""Whether the ranks of a context group can divide the tokens of a clip."""

import math

from phys4d.engine.distributed.mesh import ParallelConfig
from phys4d.engine.errors import UserError


def check_division(parallel: ParallelConfig, heads: int, tokens: tuple[int, int, int], by_frame: bool) -> None:
    """UserError, which names the key, where `parallel.context` ranks cannot divide a clip; no process group is needed.

    parallel: table of the run file. heads: of the backbone's self-attention. tokens: (T', H', W') of a clip. by_frame:
    whether the ranks divide the tokens of each frame, as of `ModelSpec.divides_frames`.
    """
    ranks, whole = parallel.context, "frame" if by_frame else "clip"
    if parallel.context_method == "ulysses" and heads % ranks:
        allowed = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise UserError(
            f'parallel.context: {heads} heads do not divide over {ranks} ranks with context_method = "ulysses": '
            f'set it to one of {allowed}, or context_method to "auto"'
        )
    if (count := math.prod(tokens[1:] if by_frame else tokens)) < ranks:
        raise UserError(
            f"parallel.context: {count} tokens of a {whole} do not give each of {ranks} ranks one: set it to {count} "
            "at most, or take larger clips"
        )
