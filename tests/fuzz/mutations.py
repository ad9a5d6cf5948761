"""Damage and malice: changed copies of bytes, JSON values and TOML text, each a function of a random generator."""

import copy
import json
from random import Random
from typing import Any

HUGE = (b"\xff", b"\x7f", b"\x80", b"\0")
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, -1e-320, float("nan"), float("inf"), "", "x" * 2000, "../x",
    "/dev/zero", "\x1b[2Jall clips are whole", "\0", "\ud800", [], {}, [[]], [None], {"": {}},
)  # fmt: skip


def damaged(data: bytes, draw: Random) -> bytes:
    """The data with a flipped bit, an end cut off, a part moved, doubled, removed, or overwritten."""
    if not data:
        return b"\0"
    at, length = draw.randrange(len(data)), draw.choice((1, 2, 4, 8, 64, 1000))
    other = draw.randrange(len(data))
    part = data[other : other + length]
    ways = (
        lambda: data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :],
        lambda: data[:at],
        lambda: data[:at] + part + data[at + len(part) :],
        lambda: data[:at] + part + data[at:],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at] + draw.choice(HUGE) * min(length, len(data) - at) + data[at + length :],
        lambda: data[:at] + draw.randbytes(length) + data[at + length :],
        lambda: data + draw.randbytes(length),
    )
    return draw.choice(ways)()


def malicious(value: Any, draw: Random) -> Any:
    """A copy of a JSON value with one part replaced, removed, doubled, nested or exchanged for another."""
    whole = [copy.deepcopy(value)]
    places = list(_places(whole))
    holder, key = draw.choice(places)
    other, other_key = draw.choice(places)
    way = draw.randrange(7)
    if way < 3:
        holder[key] = copy.deepcopy(draw.choice(VALUES))
    elif way == 3 and isinstance(holder, dict):
        del holder[key]
    elif way == 4 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif way == 5:
        for _ in range(draw.choice((1, 40, 500))):
            holder[key] = [holder[key]]
    else:
        holder[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(holder[key])
    return whole[0]


def _places(value: Any) -> Any:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def json_text(data: bytes, draw: Random) -> bytes:
    """The text of a JSON document after one to three malicious changes, or after damage to its bytes."""
    if draw.random() < 0.3:
        return damaged(data, draw)
    value = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        value = malicious(value, draw)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def toml_text(data: bytes, draw: Random) -> bytes:
    """The text of a TOML document with a line moved, doubled, removed or given another value, or damaged."""
    if draw.random() < 0.3:
        return damaged(data, draw)
    lines = data.decode().split("\n")
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    key, equals, _ = lines[at].partition("=")
    values = (
        "1e400", "9" * 4000, '"' + "x" * 3000 + '"', "[" * 3000, "{a=" * 200, '"\\u001b[2J"', "-1", "nan", "''", "[]",
    )  # fmt: skip
    ways = (
        lambda: lines[at : at + 1] * 2,
        list,
        lambda: [lines[other]],
        lambda: [f"{key or 'a'}{equals or '='} {draw.choice(values)}"],
        lambda: ["a" + ".a" * draw.choice((10, 30_000)) + " = 1", lines[at]],
        lambda: ["[" + "b." * draw.choice((10, 30_000)) + "c]", lines[at]],
    )
    return "\n".join(lines[:at] + draw.choice(ways)() + lines[at + 1 :]).encode()
