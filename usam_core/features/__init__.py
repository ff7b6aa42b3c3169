"""Vectors of masks and of names, by encoders of `transformers`."""
