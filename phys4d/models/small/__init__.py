"""A small model that is trained for hours and ships: a Wan transformer under rectified flow, and a trained codec."""
