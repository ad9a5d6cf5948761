"""Point clouds: nearest neighbours, Chamfer distances, alignment."""
