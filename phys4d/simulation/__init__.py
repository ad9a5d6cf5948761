"""Simulated clips with exact geometry: any simulator's mesh sequence in, pictures and truth out.

`generate.simulate` writes a dataset. The parts, in the order of a clip's making: `families` draw a `Scene`,
`screening` says whether it can be used, `mujoco_world` moves it, `assembly` makes the `MeshSequence`, `raster`
draws it, `truth` and `visibility` measure it, `record` and `caption` describe it.
"""
