"""A small model for a CPU: a Wan transformer with random weights, a wavelet codec, a text encoder without weights."""
