"""Stores of Samples and the pipeline that turns them into Batches. Nothing here imports jax."""

from eo_jax.data.store.reader import Store, open_store

__all__ = ["Store", "open_store"]
