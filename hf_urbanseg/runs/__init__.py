"""A run's folder: what its files are called, how they are written and read back, and what was measured on what."""
