"""A folder of these kernels that Hugging Face's `kernels` library loads, without phys4d.

python -m phys4d.kernels.integrate.hub --out DIR

folder.py   writes it: sources with relative imports, metadata, card
layers.py   the layers in it, by which `kernelize` replaces the forward of a model's own
"""

from phys4d.kernels.integrate.hub.folder import write

__all__ = ["write"]
