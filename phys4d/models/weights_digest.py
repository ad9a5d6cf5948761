"""A digest of weights that takes milliseconds: name, dtype, shape and the first bytes of every tensor.

Training changes nearly every value of a tensor that it touches, so weights that were trained further differ. Damage in
the middle of a file does not show; `hub_digests` looks for that.
"""

import hashlib
import json
import math
from pathlib import Path

from phys4d.engine.errors import UserError
from phys4d.models.headers import BYTES, read_weights

_FIRST = 4096  # bytes of a tensor


def weights_digest(folder: Path, name: str, layout: str) -> str:
    """SHA-256 over the tensors of a folder, independent of the files that they are divided over.

    folder, name, layout: as of `headers.read_weights`. UserError where a file is absent, damaged or incomplete.
    """
    stored, files = read_weights(folder, name, layout)
    first: dict[str, bytes] = {}
    for path in set(files.values()):
        try:
            with open(path, "rb") as file:
                for key in (key for key in stored if files[key] == path):
                    size = math.prod(stored[key].shape) * BYTES.get(stored[key].dtype, 1)
                    file.seek(stored[key].begin)
                    first[key] = file.read(min(_FIRST, size))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}): copy or download it again") from None
    total = hashlib.sha256()
    for key in sorted(stored):
        total.update(json.dumps([key, stored[key].dtype, stored[key].shape]).encode() + first[key])
    return total.hexdigest()
