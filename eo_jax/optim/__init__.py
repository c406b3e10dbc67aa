"""Optimizers, schedules and gradient transformations."""
