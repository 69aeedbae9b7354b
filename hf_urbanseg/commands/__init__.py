"""One file a command: parse, call the rooms in order, print."""
