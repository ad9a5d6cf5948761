"""Teachers: where pseudo-labels for videos without truth come from.

`interface` says what a teacher is; `dis` (optical flow, no weights), `small_depth` (a small network trained
on simulated scenes) and `depth_anything` (transformers, local weights) are teachers; `label` runs them over a
dataset of videos. A teacher never sees truth of the clips that it labels, and is refused for clips that it
was trained on.
"""
