"""Teachers: models that give pseudo-labels (depth, optical flow) to videos without truth. See README.md."""
