"""Models and their image processors."""
