"""report.html in the run folder: what a run is worth, for people, in one file that needs no network."""
