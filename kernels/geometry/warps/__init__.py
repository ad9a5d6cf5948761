"""Warps of pixels: backward and forward warp, occlusion, and trajectories of points."""
