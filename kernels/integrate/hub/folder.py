"""Writes a kernel repository for Hugging Face's `kernels` library: build/torch-universal and a card.

Source of the layout: huggingface.co/docs/kernels, "Kernel requirements". Loaded are this package's own sources with
relative imports; Triton compiles them where they run, so that one variant serves every torch and GPU. Their operators
are registered under a name that depends on the sources' content: several versions, and phys4d itself, may be loaded in
one process.
"""

import ast
import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

KERNELS = Path(__file__).parents[2]
NAME, VERSION, LICENSE = "phys4d", 1, "apache-2.0"
VARIANT = "torch-universal"
ROOTS = ("attention", "elementwise", "integrate.hub.layers")
ORIGIN = "phys4d.kernels"
INIT = '''"""Attention, norm and rotation of queries and keys, and adaptive norm of video transformers, in Triton."""

from . import layers
from .attention import *
from .attention import __all__ as _attention
from .elementwise import *
from .elementwise import __all__ as _elementwise

__all__ = [*_attention, *_elementwise, "layers"]
'''
# Older versions of `kernels` load the folder of the kernel's name inside the variant.
COMPATIBLE = '''"""The same as the folder above."""

import importlib.util
import sys
from pathlib import Path

_path = Path(__file__).resolve().parent.parent / "__init__.py"
_name = "{identity}"
if _name not in sys.modules:
    _spec = importlib.util.spec_from_file_location(_name, _path)
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])
__all__ = sys.modules[_name].__all__
globals().update({{name: getattr(sys.modules[_name], name) for name in __all__}})
'''
CARD = f"""---
library_name: kernels
license: {LICENSE}
---
# {NAME}
Kernels for video diffusion transformers, in Triton, with gradients and under `torch.compile(fullgraph=True)`. On a CPU
the same functions are computed by torch's operators. Needs Python 3.11, torch 2.11 and triton 3.6, or newer.

    from pathlib import Path
    from kernels import get_local_kernel

    {NAME} = get_local_kernel(Path("DIR"))         # this folder; get_kernel(repository, version={VERSION}) from the Hub
    out = {NAME}.attention(q, k, v)                # [B, S, heads, D], any strides, no transposes
    out = {NAME}.attention(q, k, v, grid=(T, H, W), pattern={NAME}.Window(3, 5, 5))
    stream, out = {NAME}.adaptive_norm(x, y, gate=gate, scale=scale, shift=shift)

| function | computes |
|---|---|
| `attention` | full, causal, spatial, temporal and windowed attention over a video's tokens; masks, shared keys, lse |
| `qk_norm_rope` | norm of queries and keys and their rotation by three axes, one pass |
| `adaptive_norm` | residual, gate, norm and modulation between two layers, one pass |

`layers` holds `Attention`, `AdaptiveNorm`, `LayerNorm`, `RMSNorm` and `QKNormRope` for `kernels.kernelize`; all have a
backward pass.
"""


def sources() -> dict[str, Path]:
    """Module below phys4d.kernels -> its file, of the roots and all that they import."""
    found: dict[str, Path] = {}
    waiting = list(ROOTS)
    while waiting:
        module = waiting.pop()
        if module in found or not module:
            continue
        path = KERNELS.joinpath(*module.split("."))
        found[module] = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        waiting += _imported(found[module])
        if not module.startswith("integrate"):
            waiting.append(module.rpartition(".")[0])
    return found


def write(folder: Path) -> Path:
    """Writes build/torch-universal, which is replaced where it exists, and README.md into a folder.

    Args:
        folder: of the kernel's repository, made where it is missing.

    Returns:
        The folder build/torch-universal.
    """
    files = {"__init__.py": INIT}
    for module, path in sorted(sources().items()):
        target = "layers.py" if module == "integrate.hub.layers" else str(path.relative_to(KERNELS))
        files[target] = _relative(path.read_text(), len(Path(target).parts))
    identity = f"_{NAME}_{hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]}"
    files = {name: _renamed(text, identity) for name, text in files.items()}
    files[f"{NAME}/__init__.py"] = COMPATIBLE.format(identity=identity)
    build = folder / "build" / VARIANT
    shutil.rmtree(build, ignore_errors=True)
    for name, text in files.items():
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).write_text(text)
    digest = {name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for name, text in files.items()}
    metadata = {
        "id": identity, "name": NAME, "version": VERSION, "license": LICENSE, "python-depends": [],
        "backend": {"type": "cuda", "archs": ["8.0+PTX"]}, "digest": {"algorithm": "sha256", "files": digest},
    }  # fmt: skip
    (build / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    (folder / "README.md").write_text(CARD)
    return build


def _imported(path: Path) -> list[str]:
    """Modules below phys4d.kernels that a file imports anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and f"{node.module}.".startswith(f"{ORIGIN}."):
            module = node.module.removeprefix(ORIGIN).lstrip(".")
            for name in (f"{module}.{alias.name}".lstrip(".") for alias in node.names):
                path = KERNELS.joinpath(*name.split("."))
                found.append(name if path.is_dir() or path.with_suffix(".py").is_file() else module)
    return found


def _relative(text: str, depth: int) -> str:
    """A file's text with `from phys4d.kernels...` as relative imports; depth: parts of its path in the variant."""
    return re.sub(rf"(?m)^(\s*from ){re.escape(ORIGIN)}(?:\.([\w.]+))?( import )", rf"\1{'.' * depth}\2\3", text)


def _renamed(text: str, identity: str) -> str:
    """The text with operators registered and called under another name than phys4d."""
    return text.replace(f"{NAME}::", f"{identity}::").replace(f"torch.ops.{NAME}.", f"torch.ops.{identity}.")
