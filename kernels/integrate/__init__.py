"""Drop-ins for other people's video models: torch's scaled_dot_product_attention, and, in `diffusers`, its processors.

Nothing here imports what it drops into: diffusers is imported when a model of its is met.
"""

from phys4d.kernels.integrate.functional import Calls, sdpa

__all__ = ["Calls", "sdpa"]
