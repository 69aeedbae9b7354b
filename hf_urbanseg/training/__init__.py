"""The Trainer, what it keeps, and how it ends."""
