"""Stage 7: what a run leaves behind."""
