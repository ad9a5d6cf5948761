"""Drop-ins for existing video models: torch's scaled_dot_product_attention, and, in `diffusers`, its processors.

diffusers is imported only when a model of its classes is passed in.
"""

from phys4d.kernels.integrate.functional import Calls, sdpa

__all__ = ["Calls", "sdpa"]
