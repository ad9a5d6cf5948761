"""Losses that take one pass forward and one backward: depth, flow, scene flow, and consistency of depth with motion."""
