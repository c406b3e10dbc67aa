"""The queue of past embeddings that MoCo and SwAV keep."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from eo_jax.schema import Carry


def enqueue(queue: Carry, rows: Float[Array, "b ..."]) -> Carry:
    """The queue {"rows": [n, ...], "next": row that is replaced next} with its oldest rows
    replaced; b divides n.
    """
    held = jax.lax.dynamic_update_slice_in_dim(queue["rows"], rows, queue["next"], axis=0)
    return {"rows": held, "next": (queue["next"] + len(rows)) % len(held)}
