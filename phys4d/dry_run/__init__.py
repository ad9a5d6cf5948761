"""`phys4d train --dry-run --world-size N`: what a run would take on N GPUs, counted without any of them."""
