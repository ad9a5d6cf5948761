"""phys4d: lifts a pretrained video diffusion transformer into a physics-consistent 4D world model."""

__version__ = "0.1.0"
