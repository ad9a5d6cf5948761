"""Importers: convert recordings of other programs to datasets of this package."""
