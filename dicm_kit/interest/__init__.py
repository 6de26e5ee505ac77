"""Stage 4: history vectors -> one interest vector."""
