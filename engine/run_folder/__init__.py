"""What a run leaves in its folder beside checkpoints: configuration, provenance, metrics, events and its clock."""
