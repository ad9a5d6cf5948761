"""Limits on what files may claim. Readers check them before they allocate memory or hand the data to a library.

A limit is far above what sound data needs; a file that exceeds one is refused with one line that names the limit.
"""

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Clips.
FRAMES = 100_000
"""Frames of one mp4."""
PICTURE_PIXELS = 1 << 26
"""Pixels of one frame (8192 x 8192)."""
VIDEO_BYTES = 2 * GIB
"""One clip as RGB, 3 bytes a pixel."""
MEMBER_BYTES = 2 * GIB
"""One stored member of a clip."""
EDITS = 64
"""Entries of an mp4's edit list; each may show all frames again."""

# Array blobs.
BLOB_HEADER_BYTES = 1 * MIB
ARRAYS = 64
"""Arrays of one clip."""
ARRAY_DIMENSIONS = 8
ARRAY_BYTES = 2 * GIB
"""One array, unpacked."""
ARRAY_BYTES_PER_PIXEL = 64
"""All arrays of a clip together, unpacked, for each pixel of each frame; the simulator's take 23, with all
optional ones 49."""
ARRAY_BYTES_SPARE = 1 * MIB
"""Added to the line above, for arrays that are not images."""

# Indexes.
INDEX_BYTES = 1 * GIB
INDEX_SPARE_ROWS = 1000
"""An index has at most as many rows as its file has bytes, and these: a digest of each clip alone takes 32 bytes."""
INDEX_UNPACKED_RATIO, INDEX_UNPACKED_SPARE = 32, 64 * MIB
"""Unpacked columns: at most this multiple of the file's bytes, and these bytes more. The digests of a clip's mp4
and json take 64 bytes of a packed row; all else in the row is below 32 times that, however well it packs."""
INDEX_CAPTION_BYTES, INDEX_TEXT_BYTES = 1024, 255
"""A caption, and any other text of a row: longer captions are cut in the index, and whole in the json."""
PARQUET_FOOTER_BYTES, PARQUET_FOOTER_DEPTH = 4 * MIB, 16
"""The footer of an index, of 4 KiB for each group of about a million rows, and structures inside each other."""
CLIP_MEMBERS = 16
"""Members of one clip."""

# Tars that another program wrote.
TAR_TEXT_BYTES = 64 * KIB
"""An extended header: the name of a file and what else does not fit the plain one."""

# Text files.
JSON_BYTES, JSON_DEPTH = 8 * MIB, 32
"""One JSON document that a person or another program has written: bytes, and lists and objects inside each other."""
TOML_BYTES, TOML_DEPTH = 256 * KIB, 32
"""A run file: bytes, and tables and arrays inside each other, or parts of one dotted key."""

CAPTIONS_BYTES = 512 * MIB
"""A table or list of captions of many videos."""

# Models.
WIDTH, LAYERS, SETTING = 16_384, 512, 1 << 22
"""What a model's configuration may ask for: channels of a token, blocks, and any other whole number."""
SAFETENSORS_HEADER_BYTES = 16 * MIB
"""The header of one file of weights; that of a model of 5 billion parameters has 100 KB."""
