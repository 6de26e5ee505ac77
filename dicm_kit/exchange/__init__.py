"""Below the stages: who owns a key, and how vectors come back from there."""
