"""Images: listing them, reading them, and the verdict on those that cannot be read."""
