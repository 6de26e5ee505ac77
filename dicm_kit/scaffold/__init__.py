"""`dicm new plugin`: a distribution to start a plugin from. `templates/` has its files, `kinds.py` what differs."""
