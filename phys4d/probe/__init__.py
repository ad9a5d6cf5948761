"""Which of a backbone's blocks, at which noise level, know depth and motion: `phys4d probe`."""
