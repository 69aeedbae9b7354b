"""From images to label maps."""
