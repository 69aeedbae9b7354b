"""Every pair opened and measured before training, so that bad input is found before the first step."""
