"""Training checkpoints: upload, conversion to another world size, and resume."""
