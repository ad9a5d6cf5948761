"""The Physics-IQ benchmark (arXiv:2501.09038): folders of generated videos scored as the public program scores them."""
