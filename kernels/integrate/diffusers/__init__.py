"""Diffusers' video transformers with this package's attention, norm and rotation; undone at will."""

from phys4d.kernels.integrate.diffusers.accelerated import Accelerated
from phys4d.kernels.integrate.diffusers.dispatcher import backend_report, register_backend, unregister_backend
from phys4d.kernels.integrate.diffusers.divided import gathered
from phys4d.kernels.integrate.diffusers.swap import accelerate

__all__ = [
    "Accelerated",
    "accelerate",
    "backend_report",
    "gathered",
    "register_backend",
    "unregister_backend",
]
