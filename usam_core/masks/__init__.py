"""Masks as bits, run lengths and polygons; painting and suppression."""
