"""A teacher's file whose package was built for another torch."""

raise RuntimeError("operator torchvision::nms does not exist\nTraceback")
