"""What must not leave this machine: secrets, and its paths."""
