"""States and checkpoints of them, for tests; and damage to their files."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax.checkpoint import Checkpoints

CONFIG = {
    "optim": {"lr": 1e-3, "decay_rules": (("bias$", 0.0), (".*", 1.0))},
    "run": {"max_to_keep": 2, "keep_every": 0, "keep_best": "", "keep_best_mode": "max"},
}


def state_of(seed: int = 0) -> dict:
    """A train state with every kind of leaf."""
    values = np.random.default_rng(seed).normal(size=(24, 16)).astype(np.float32)
    return {
        "step": jnp.asarray(5, jnp.int32),
        "params": {"kernel": jnp.asarray(values), "bias": jnp.zeros(4)},
        "carry": {"encoder": {}},
        "optimizer": (
            {"mu": jnp.asarray(values, jnp.bfloat16)},
            {"count": jnp.asarray(5, jnp.int32)},
        ),
    }


def like(state: dict) -> dict:
    """Its shapes, dtypes and shardings."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def save_two(workdir: Path) -> Path:
    """Checkpoints 2 and 5, of `state_of(1)` and `state_of(0)`."""
    checkpoints = Checkpoints(workdir)
    checkpoints.save(2, state_of(1), CONFIG)
    checkpoints.save(5, state_of(0), CONFIG)
    checkpoints.wait()
    return workdir


def files_of(workdir: Path, step: int) -> list[Path]:
    """The files of a checkpoint."""
    folder = workdir / "checkpoints" / str(step)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def halve(files: list[Path]) -> None:
    """Cuts off the second half of each file, as a full disk or a broken copy leaves it."""
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, bit: int) -> bytes:
    """Inverts one bit of a file, counted over all its bytes; returns what the file was."""
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    return before
