"""Video decoders behind one interface: PyAV on the CPU, NVIDIA DALI on a GPU, torchcodec."""
