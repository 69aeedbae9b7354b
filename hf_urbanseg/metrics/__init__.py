"""Confusion matrix and the scores read from it."""
