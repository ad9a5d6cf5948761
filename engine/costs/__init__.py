"""What a step costs, counted on tensors that have shapes and no values: memory, FLOPs, bytes moved and communicated."""
