"""Smoke: `air_grid` simulates it on a grid, `smoke_volume` renders it and gives its opacity in each pixel."""
