"""Losses with one forward and one backward pass: depth, flow, scene flow, and consistency of depth with motion."""
