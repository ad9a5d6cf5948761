"""Caches of latents and of the tokens of captions, computed once per clip and read in training."""
