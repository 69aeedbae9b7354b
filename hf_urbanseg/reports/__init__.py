"""Pictures, plots and tables of a run."""
