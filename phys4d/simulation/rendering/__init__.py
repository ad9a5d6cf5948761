"""OpenGL rendering of mesh sequences: the video, and the face that each pixel centre sees."""
