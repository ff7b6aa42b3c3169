"""The papers' head: network, losses, training, checkpoints."""
