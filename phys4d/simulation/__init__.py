"""Simulated clips with exact geometry: any simulator's mesh sequence in, pictures and truth out.

`generate.simulate` writes a dataset. The parts, in the order of a clip's making: `families` draw a `Scene`, `looks`
and `camera_path` vary its room, its light and its camera, `mujoco_world` moves it, `screening` and `events` say whether
it can be used, `assembly` makes the `MeshSequence`, `raster` draws it, `truth` and `visibility` measure it, `record`
and `caption` describe it.
"""
