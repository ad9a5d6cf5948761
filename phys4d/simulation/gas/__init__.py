"""Smoke: `air` moves it on a grid, `volume` says how much of each pixel it covers and how it looks."""
