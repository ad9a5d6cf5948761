"""The stages of a run, each with its objective, and the run file that orders them."""
