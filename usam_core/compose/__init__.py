"""Scenes composed of cut-out objects, with known truth."""
