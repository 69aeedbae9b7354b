"""From a Hub id, folder or archive to checked, augmented batches."""
