"""Datasets of ours from folders that other programs wrote."""
