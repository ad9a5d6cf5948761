"""Video backbones, codecs, text encoders and geometry heads, and the folder layout they live in."""
