"""Layers that stems, trunks and heads share."""
