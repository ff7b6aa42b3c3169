"""From a head and masks to labels, and the calibration of their probabilities."""
