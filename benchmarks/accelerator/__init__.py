"""Measures training on an accelerator, in one command: `python -m benchmarks.accelerator`."""
