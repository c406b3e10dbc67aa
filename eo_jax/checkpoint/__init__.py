"""Checkpoints that are what was saved, or an error.

A checkpoint is a folder WORKDIR/checkpoints/STEP: `state` are the arrays, as Orbax writes them, and
`manifest` is everything else: step, config, scores, and path, dtype, shape and checksum of every
array. Orbax renames the folder when all of it is on the disk. Only this
package imports Orbax.
"""

from eo_jax.checkpoint.fallback import restored, set_damaged_aside
from eo_jax.checkpoint.hashes import leaf_hashes, state_hash
from eo_jax.checkpoint.retention import Retention
from eo_jax.checkpoint.saved import DamagedError, DeletedError, Saved
from eo_jax.checkpoint.workdir import Checkpoints, load

__all__ = [
    "Checkpoints",
    "DamagedError",
    "DeletedError",
    "Retention",
    "Saved",
    "leaf_hashes",
    "load",
    "restored",
    "set_damaged_aside",
    "state_hash",
]
