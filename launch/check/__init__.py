"""Prints what a launch file would run, and finds what a run would miss."""
