"""Diffusers' video transformers with this package's attention, norm and rotation; undone at will."""

from phys4d.kernels.integrate.diffusers.accelerated import Accelerated
from phys4d.kernels.integrate.diffusers.divided import gathered
from phys4d.kernels.integrate.diffusers.swap import accelerate

__all__ = ["Accelerated", "accelerate", "gathered"]
