"""The README.md of models and data sets: what a stranger reads first, written from what the folder holds."""
