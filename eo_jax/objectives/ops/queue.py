"""The queue of embeddings of earlier batches that MoCo and SwAV keep."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from eo_jax.schema import Carry


def require_whole_batches(queue_size: int, rows: int) -> None:
    """ValueError where a queue does not hold a whole number of batches."""
    if queue_size % rows:
        raise ValueError(
            f"config.objective.queue_size: {queue_size} is not a multiple of "
            f"config.data.batch_size, {rows}"
        )


def enqueue(queue: Carry, rows: Float[Array, "b ..."]) -> Carry:
    """The queue {"rows": [n, ...], "next": row that is replaced next} with its oldest rows
    replaced; b divides n.
    """
    updated = jax.lax.dynamic_update_slice_in_dim(queue["rows"], rows, queue["next"], axis=0)
    return {"rows": updated, "next": (queue["next"] + len(rows)) % len(updated)}
