"""`phys4d view`: clips, datasets and runs in a browser on this machine, or as a video and point clouds."""
