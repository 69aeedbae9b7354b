"""What the scripts do: parse, call the rooms in order, print."""
