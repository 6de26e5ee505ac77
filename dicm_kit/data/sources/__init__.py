"""Data sources that come with dicm_kit."""
