"""Stage 5: all vectors -> logit."""
