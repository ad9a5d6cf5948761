"""Importer for NVIDIA Omniverse Replicator (BasicWriter, and writers with the same file names).

    dataset.py     the command: converts a folder of recordings to a dataset of clips
    layout.py      assigns files to cameras, sequences and frames
    annotations.py reads one file of one frame: pictures, arrays, segmentation
    camera.py      converts camera_params from USD's conventions
    frames.py      geometry of recorded frames
    motion.py      converts motion vectors to the previous frame into motion to the next frame
    agreement.py   checks vectors against masks, depth and the camera's motion
    units.py       checks that distances are in metres

docs/import-replicator.md states which data of such a clip is known and which is not.
"""
