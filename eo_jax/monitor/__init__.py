"""Metrics of a run, where they are written, and where its time goes."""
