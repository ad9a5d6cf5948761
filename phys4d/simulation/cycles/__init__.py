"""Pictures by Blender's Cycles of the same meshes and cameras that the truth is measured from.

`description` states a clip as plain arrays and numbers; `process` gives it to `worker.py`, which a Python with the
module `bpy` runs, and reads the pictures. `worker.py` and `shader_nodes.py` import nothing of this package.
"""
