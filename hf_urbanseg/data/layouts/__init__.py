"""The ways in which pairs of image and label are stored: folders, archives, saved sets, sets on the Hub."""
