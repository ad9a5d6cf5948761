"""Open-Sora 1.2: STDiT3-XL/2, its video autoencoder and text encoder, and its published folder."""
