"""Moments and quantiles of the bands of a store."""
