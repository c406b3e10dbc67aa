"""Encoders for PyTorch users: the key layouts of published networks, and the contract that says
what to feed them.
"""
