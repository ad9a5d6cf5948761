"""Mutated files: refused in one line or read as they are; no traceback, crash, hang, wrong read or gigabytes.

One input again: `echo '{"kind": "mp4", "seed": 7}' | python -m tests.fuzz.worker`.
"""

from itertools import count

import pytest

from phys4d.engine.data import dataset
from tests.fuzz.kinds import KINDS, QUICK
from tests.fuzz.pool import Counts, run
from tests.fuzz.worker import answer

EACH = 260  # inputs of a kind in the slow suite
MOST_MIB = 2048


def check(counts: Counts) -> None:
    print("\n" + counts.table())
    assert not counts.worst, "\n\n".join([f"{len(counts.worst)} of them:", *counts.worst[:20]])
    assert counts.peak < MOST_MIB


def inputs(kinds: tuple[str, ...], each: int, first: int = 0) -> list[tuple[str, int]]:
    return [(kind, seed) for seed in range(first, first + each) for kind in kinds]


def test_a_few_mutated_datasets() -> None:
    counts = run(inputs(QUICK, 9), [kind for kind in QUICK if KINDS[kind].covered], workers=1)
    check(counts)
    assert sum(counts.outcomes.values()) == 72 and counts.outcomes["shard", "refused"] > 0


@pytest.mark.slow
def test_thousands_of_mutated_files() -> None:
    kinds = tuple(KINDS)
    print(f"seeds 0 to {EACH - 1} of each kind")
    counts = run(inputs(kinds, EACH), [kind for kind in kinds if KINDS[kind].covered])
    check(counts)
    assert sum(counts.outcomes.values()) >= 3000
    for kind in kinds:  # the mutations are neither all harmless nor all too coarse to get anywhere
        assert counts.outcomes[kind, "refused"] > EACH // 20


def test_readers_that_compare_no_digest_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: a reader that takes what a shard holds; one wrong frame or word is enough."""
    sound, counts = Counts(), Counts()
    for seed in range(20):
        sound.note("shard", seed, answer("shard", seed), covered=True)
    check(sound)
    monkeypatch.setattr(dataset, "is_whole", lambda data, member: True)
    for seed in count():
        counts.note("shard", seed, answer("shard", seed), covered=True)
        if counts.worst:
            break
    with pytest.raises(AssertionError, match="shard .*: changed: clip"):
        check(counts)
    assert seed < 100
