"""The families that this package registers: one file for each class of models, and one for its blocks."""

from phys4d.kernels.integrate.diffusers.families.allegro import ALLEGRO
from phys4d.kernels.integrate.diffusers.families.cogvideox import COGVIDEOX, CONSISID
from phys4d.kernels.integrate.diffusers.families.cosmos import COSMOS
from phys4d.kernels.integrate.diffusers.families.easyanimate import EASYANIMATE
from phys4d.kernels.integrate.diffusers.families.hunyuan import FRAMEPACK, HUNYUAN, HUNYUAN15
from phys4d.kernels.integrate.diffusers.families.kandinsky import KANDINSKY
from phys4d.kernels.integrate.diffusers.families.latte import LATTE
from phys4d.kernels.integrate.diffusers.families.ltx import LTX
from phys4d.kernels.integrate.diffusers.families.ltx2 import LTX2
from phys4d.kernels.integrate.diffusers.families.mochi import MOCHI
from phys4d.kernels.integrate.diffusers.families.sana_video import SANA
from phys4d.kernels.integrate.diffusers.families.wan import WAN
from phys4d.kernels.integrate.diffusers.families.wan_kin import ANIMATE, CHRONOEDIT, SKYREELS, VACE
from phys4d.kernels.integrate.diffusers.register import register_family

for family in (
    WAN, VACE, ANIMATE, SKYREELS, CHRONOEDIT, COGVIDEOX, CONSISID, LATTE, LTX, HUNYUAN, FRAMEPACK, HUNYUAN15, MOCHI,
    ALLEGRO, EASYANIMATE, LTX2, SANA, COSMOS, KANDINSKY,
):  # fmt: skip
    register_family(family)
