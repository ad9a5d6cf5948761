"""What a clip holds: arrays, json and video, and how each is written."""
