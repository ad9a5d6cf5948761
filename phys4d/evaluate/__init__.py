"""Evaluation of a run on held-out scenes: the metrics, the run's artefacts and the report a person reads."""
