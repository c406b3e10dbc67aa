"""Encoders for PyTorch users: SpectralEarth's key layout, and the contract that says what to feed them."""
