"""Point clouds: nearest neighbours, Chamfer distances in their forms, alignment."""
