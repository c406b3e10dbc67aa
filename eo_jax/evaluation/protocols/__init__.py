"""Protocols, one family of papers per file; the folder is their registry."""
