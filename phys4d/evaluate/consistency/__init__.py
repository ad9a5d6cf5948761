"""Metrics of 4D consistency: depth, motion, warps, clouds, tracks, masks and physics of clips against their truth."""
