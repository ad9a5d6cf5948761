"""Evaluation of models on held-out clips: metrics, their changes from stage to stage, and the arrays for the report."""
