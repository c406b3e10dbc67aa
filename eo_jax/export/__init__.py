"""Encoders for PyTorch: the layouts of published networks, and the contract of the input."""
