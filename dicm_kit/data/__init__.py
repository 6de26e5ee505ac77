"""Stage 1: logs -> dataset folder -> Batch."""
