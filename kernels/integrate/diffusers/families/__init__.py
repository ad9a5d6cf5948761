"""The families that this package registers: one file for each class of models, and one for its blocks."""

from phys4d.kernels.integrate.diffusers.families.cogvideox import COGVIDEOX
from phys4d.kernels.integrate.diffusers.families.hunyuan import HUNYUAN
from phys4d.kernels.integrate.diffusers.families.latte import LATTE
from phys4d.kernels.integrate.diffusers.families.ltx import LTX
from phys4d.kernels.integrate.diffusers.families.wan import WAN
from phys4d.kernels.integrate.diffusers.families.wan_kin import ANIMATE, CHRONOEDIT, SKYREELS, VACE
from phys4d.kernels.integrate.diffusers.register import register_family

for family in (WAN, VACE, ANIMATE, SKYREELS, CHRONOEDIT, COGVIDEOX, LATTE, LTX, HUNYUAN):
    register_family(family)

__all__ = ["ANIMATE", "CHRONOEDIT", "COGVIDEOX", "HUNYUAN", "LATTE", "LTX", "SKYREELS", "VACE", "WAN"]
