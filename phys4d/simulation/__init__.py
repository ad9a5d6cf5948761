"""Simulated clips with exact geometry: a simulator gives a mesh sequence, from which pictures and truth are computed.

`generate.simulate` writes a dataset. One clip is made in this order: a function of `categories.FAMILIES` samples a
    `scene.Scene`; `scenery.looks` and `scenery.camera_path` vary its room, light and camera; `Scene.simulate` computes
    the motion; `screening` checks that the event is visible (`rejection_sampling` repeats until it is); `assembly`
    joins the meshes into a `MeshSequence`; `rendering` draws the video; `truth` measures depth, motion and visibility;
    `metadata` and `caption` write the json. README.md in this folder lists all sub-folders.
"""
