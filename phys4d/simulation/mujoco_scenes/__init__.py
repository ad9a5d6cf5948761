"""Scenes in MuJoCo.

`mjcf` writes a model, `scene_object` describes how its geoms and flexes are drawn, `rollout` runs it, and `scene`
combines them into a `Scene`. `flex`, `flex_meshes` and `flex_points` are for deformable bodies.
"""
