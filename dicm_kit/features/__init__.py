"""Stage 2: column values -> vectors."""
