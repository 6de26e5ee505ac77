"""Stage 6: the training loop on Lightning."""
