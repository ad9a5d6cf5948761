"""Wan2.2-TI2V-5B: its transformer, autoencoder, text encoder and published folder behind `phys4d.models.spec`."""
