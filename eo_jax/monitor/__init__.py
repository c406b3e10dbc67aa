"""Monitoring of a run: metrics, their writers and display, throughput and goodput."""
