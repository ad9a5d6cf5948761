"""Simulated clips with exact geometry: scenes, MuJoCo, pictures, depth, motion, visibility, captions."""
