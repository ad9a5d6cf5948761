"""Random numbers that depend on a key only, such as (seed, stage, step, sample), not on ranks or order."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def digest(*key: int | str) -> bytes:
    """32 bytes of blake2b over the canonical key: type, length and UTF-8 text of each part.

    (1, "a") and ("1", "a"), or ("ab",) and ("a", "b"), are different keys. Raises TypeError for parts that are neither
    int nor str.
    """
    hashed = hashlib.blake2b(digest_size=32)
    for part in key:
        if isinstance(part, bool) or not isinstance(part, (int, str, np.integer)):
            raise TypeError(f"a random key is made of int and str, got {part!r}")
        text = (part if isinstance(part, str) else str(int(part))).encode()
        hashed.update(b"%c%d:" % (b"s"[0] if isinstance(part, str) else b"i"[0], len(text)) + text)
    return hashed.digest()


def bits(count: int, *key: int | str) -> np.ndarray:
    """uint64 [count] of Philox-4x64 keyed by the first 128 bits of the digest: the same on every platform."""
    words = np.frombuffer(digest(*key), dtype="<u8")
    return np.random.Philox(key=words[:2].astype(np.uint64)).random_raw(count)


def generator(*key: int | str) -> torch.Generator:
    """A CPU torch.Generator seeded with 63 bits of the digest, for torch's own sampling functions.

    torch's CPU generator uses the low 32 bits of a seed, so two of 65,000 generators may coincide; `normal` and
    `uniform` use 128 bits.
    """
    seed = int.from_bytes(digest(*key)[:8], "little") >> 1
    return torch.Generator("cpu").manual_seed(seed)


def uniform(shape: Sequence[int], *key: int | str) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24: fp32 CPU tensor of `shape`, a function of the key only."""
    raw = bits(math.prod(shape), *key) >> np.uint64(40)
    return torch.from_numpy((raw.astype(np.float64) * 2.0**-24).astype(np.float32)).reshape(tuple(shape))


def normal(shape: Sequence[int], *key: int | str) -> Tensor:
    """Standard normal numbers: fp32 CPU tensor of `shape`, a function of the key only.

    Box-Muller in fp64 on Philox words, rounded to fp32 at the end, so that the result does not depend on numpy's
    algorithm or the platform's libm. The largest possible value is 6.8.
    """
    count = math.prod(shape)
    raw = bits((count + 1) // 2, *key)
    radius_part = ((raw >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
    angle = (raw & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0**-32 * 2.0 * math.pi)
    radius = np.sqrt(-2.0 * np.log(radius_part))
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return torch.from_numpy(pairs.reshape(-1)[:count].astype(np.float32)).reshape(tuple(shape))
