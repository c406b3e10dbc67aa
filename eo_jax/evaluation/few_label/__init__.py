"""Few labels on one hyperspectral scene: the protocol, its methods and their table."""
