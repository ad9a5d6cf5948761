"""Counts of the instructions in a kernel's machine code (SASS) by kind; an instruction in a loop counts once."""

import re
from collections import Counter
from typing import Any

TENSOR_CORE = re.compile(r"[BDHIQ]G?MMA|UTC\w*MMA")
_LINE = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][\w.]*)", re.MULTILINE)
_WIDTH = re.compile(r"[US]?(8|16|32|64|128|256)")


def mnemonics(code: str) -> list[str]:
    """The instructions in the text that nvdisasm prints, without predicates and operands: "LDG.E.128"."""
    return _LINE.findall(code)


def instruction_counts(code: str) -> dict[str, Any]:
    """Instructions by kind, of the text that nvdisasm prints.

    Returns:
        tensor_core: matrix products (HMMA, HGMMA, IMMA, IGMMA, UTC*MMA).
        global_loads, global_stores: between global memory and registers, {bytes that one thread moves: count}.
        async_copies: from global into shared memory without registers between, {bytes: count}.
        tma_loads, tma_stores: tiles moved by the tensor memory accelerator.
        exp2: MUFU.EX2.
        total: all instructions, padding included.
    """
    found = mnemonics(code)
    kinds = Counter(name.split(".")[0] for name in found)
    return {
        "tensor_core": sum(count for kind, count in kinds.items() if TENSOR_CORE.fullmatch(kind)),
        "global_loads": _by_bytes(found, "LDG"),
        "global_stores": _by_bytes(found, "STG"),
        "async_copies": _by_bytes(found, "LDGSTS"),
        "tma_loads": kinds["UTMALDG"] + kinds["UBLKCP"],
        "tma_stores": kinds["UTMASTG"] + kinds["UTMAREDG"],
        "exp2": sum(name.startswith("MUFU.EX2") for name in found),
        "total": len(found),
    }


def _by_bytes(found: list[str], kind: str) -> dict[str, int]:
    """Bytes of one thread's access -> count, widest first; an access whose name has no width moves four bytes."""
    bits: Counter[int] = Counter()
    for name in found:
        first, *rest = name.split(".")
        if first == kind:
            widths = [int(match[1]) for part in rest if (match := _WIDTH.fullmatch(part))]
            bits[widths[-1] if widths else 32] += 1
    return {str(width // 8): bits[width] for width in sorted(bits, reverse=True)}
