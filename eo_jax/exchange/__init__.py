"""Weights in the layouts of PyTorch networks, in both directions, and the contract of the input."""
