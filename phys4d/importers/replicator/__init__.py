"""Clips that NVIDIA Omniverse Replicator's writers left (BasicWriter and those that name files as it does).

    dataset.py     the command: a folder of recordings becomes a dataset of clips
    layout.py      which files belong to which camera, sequence and frame
    annotations.py one file of one frame: pictures, arrays, segmentation
    camera.py      camera_params: USD's camera in our conventions
    motion.py      motion vectors to the previous frame become motion to the next one
    agreement.py   vectors against masks, depth and the camera's motion
    units.py       whether distances are metres

What is and what is not known of such a clip: docs/import-replicator.md.
"""
