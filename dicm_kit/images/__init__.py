"""Stage 3: picture keys -> vectors, every picture computed once."""
