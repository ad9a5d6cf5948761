"""What kinds of instructions a kernel's machine code holds. Static: an instruction in a loop counts once."""

import re
from collections import Counter
from typing import Any

TENSOR_CORE = re.compile(r"[BDHIQ]G?MMA|UTC\w*MMA")
_LINE = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][\w.]*)", re.MULTILINE)
_WIDTH = re.compile(r"[US]?(8|16|32|64|128|256)")


def mnemonics(code: str) -> list[str]:
    """The instructions of a disassembly by nvdisasm, without predicates and operands: "LDG.E.128"."""
    return _LINE.findall(code)


def counted(code: str) -> dict[str, Any]:
    """Instructions by kind; accesses of global memory by the bytes that one thread moves.

    tensor_core: products of tiles (HMMA, HGMMA, UTC*MMA); global_loads and global_stores: between memory and registers,
    {bytes: count}; async_copies: from memory into shared memory, without registers between, {bytes: count}; tma_loads
    and tma_stores: whole tiles by the tensor memory accelerator; exp2; total: all, padding included.
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
    """Bytes -> how many, widest first; an access whose name gives no width is one of four bytes."""
    bits: Counter[int] = Counter()
    for name in found:
        first, *rest = name.split(".")
        if first == kind:
            widths = [int(match[1]) for part in rest if (match := _WIDTH.fullmatch(part))]
            bits[widths[-1] if widths else 32] += 1
    return {str(width // 8): bits[width] for width in sorted(bits, reverse=True)}
