"""A stage's training: the loop, the optimizer, and the order of stages."""
