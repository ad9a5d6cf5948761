"""Diffusers' video transformers with this package's attention, norm and rotation; undone at will.

    swap.py          accelerate: finds models of known families, swaps their modules
    accelerated.py   its result, and undo
    report.py        what computes each part of a model as it stands
    register.py      Family, register_family: how a kind of model is made known
    families/        the families of this package, one file for each model's attention and one for its blocks
    processor.py     what attention processors share
    blocks.py        what the replaced forwards of blocks share
    forwards.py      where a forward is kept below hooks, how it is replaced and restored
    bypass.py        when weights may be read in place of calling their module
    rotation.py      the angles that a model hands to its processors
    setting.py       what the modules of one transformer have in common
    divided.py       tokens divided over a process group
    dispatcher.py    register_backend: the backend "phys4d" of diffusers' attention dispatcher
    dispatched.py    one call of that backend, and the report
    situations.py    what people do to a model: adapters, offloading, caches, hooks, copies
    kit.py           check_family: each of them compared with the model's own code
"""

from phys4d.kernels.integrate.diffusers.accelerated import Accelerated, restore
from phys4d.kernels.integrate.diffusers.dispatcher import backend_report, register_backend, unregister_backend
from phys4d.kernels.integrate.diffusers.divided import gathered, own_part
from phys4d.kernels.integrate.diffusers.register import Family, register_family, registered_families
from phys4d.kernels.integrate.diffusers.report import Report
from phys4d.kernels.integrate.diffusers.swap import accelerate

__all__ = [
    "Accelerated", "Family", "Report", "accelerate", "backend_report", "gathered", "own_part", "register_backend",
    "register_family", "registered_families", "restore", "unregister_backend",
]  # fmt: skip
