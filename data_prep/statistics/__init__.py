"""Moments, quantiles and class counts of a store."""
