"""Judges of trained encoders: tasks, protocols, metrics with intervals, floors, one table."""
