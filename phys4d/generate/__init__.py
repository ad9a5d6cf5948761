"""Generates clips, with depth and motion, from a first frame and a prompt."""
