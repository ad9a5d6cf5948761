"""Clip datasets: tar shards with an offset index, quantised array blobs, mp4 clips, and a deterministic order."""
