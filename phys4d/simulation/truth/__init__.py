"""Exact depth, motion and visibility of the surface points that pixel centres see, in float64."""
