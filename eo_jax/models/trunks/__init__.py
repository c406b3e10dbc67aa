"""Trunks: from tokens or images to features. A config names a file of this folder."""
