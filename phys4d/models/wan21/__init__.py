"""Wan2.1, text to video and image to video: what differs from `phys4d.models.wan`, behind `phys4d.models.spec`."""
