"""Random numbers: functions of their key only, equal on all platforms, and correctly distributed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phys4d.engine.random import digest, generator, normal, uniform

keys = st.lists(st.integers() | st.text(max_size=8), max_size=4).map(tuple)


def test_values_are_pinned() -> None:
    """Literal values: another platform, process or version of numpy or torch must give the same."""
    expected = torch.tensor(
        [-1.1702412366867065, -0.5756492614746094, 0.06652196496725082, -0.9673948884010315]
    )
    assert torch.equal(normal((4,), 7, "noise", 3), expected)
    assert torch.equal(
        uniform((3,), 7, "noise", 3),
        torch.tensor([0.4272361397743225, 0.624915361404419, 0.5337207317352295]),
    )
    assert digest(1, "a").hex()[:16] == "93d7f78358e7730c"


@given(a=keys, b=keys)
def test_different_keys_give_different_digests(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> None:
    assert (digest(*a) == digest(*b)) == (a == b)


def test_kind_and_boundaries_of_the_parts_count() -> None:
    assert len({digest(1), digest("1"), digest("ab"), digest("a", "b"), digest("a", "b", ""), digest()}) == 6


def test_a_key_is_made_of_integers_and_strings() -> None:
    for wrong in (1.0, None, True):
        with pytest.raises(TypeError, match="int and str"):
            digest("seed", wrong)  # type: ignore[arg-type]


def test_a_shape_only_cuts_the_stream() -> None:
    assert torch.equal(normal((3, 5), "k"), normal((15,), "k").reshape(3, 5))
    assert torch.equal(normal((8,), "k")[:5], normal((5,), "k"))
    assert normal((), "k").shape == () and normal((0, 3), "k").shape == (0, 3)


def test_moments_and_independence() -> None:
    x, u = normal((200_000,), 0), uniform((200_000,), 0)
    error = 1 / math.sqrt(len(x))
    assert abs(x.mean()) < 5 * error and abs(x.var() - 1) < 8 * error and abs((x**4).mean() - 3) < 60 * error
    assert (
        u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 3 * error and abs(u.var() - 1 / 12) < 2 * error
    )
    assert abs((x * normal((200_000,), 1)).mean()) < 5 * error
    assert abs((x[::2] * x[1::2]).mean()) < 8 * error


def test_generators_repeat_and_differ() -> None:
    draws = [torch.randperm(50, generator=generator("perm", seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
