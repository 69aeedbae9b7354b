"""What may be asked for: every option with its help and range, recipes, and how words become them."""
