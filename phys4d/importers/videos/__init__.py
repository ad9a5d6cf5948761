"""Plain video files (mp4, mov, webm, mkv) become a dataset of clips without truth: docs/your-own-clips.md.

`files` finds videos and captions, `captions` reads lists of them, `container` checks a file and reads its frame times,
`sampling` picks frames by time, `engine.data.tools.framing` resizes them and makes the intrinsics, `dataset` writes the
clips.
"""
