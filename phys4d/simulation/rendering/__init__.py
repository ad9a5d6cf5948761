"""OpenGL rendering of mesh sequences: the video."""
