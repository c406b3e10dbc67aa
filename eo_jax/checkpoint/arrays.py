"""Arrays on the disk, by Orbax: a flat dict {path: array}, as Zarr arrays in an OCDBT database.

The paths are all there is to know of the tree, so that a manifest can list them. Orbax' own files
about shapes and shardings are not written: each is one more file that a damaged disk may change,
and shardings name devices of the machine that saved.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from eo_jax import rules

# Orbax logs every phase of every save, and a traceback where a command ends before its clean-up
# thread; asyncio logs what Orbax no longer waits for after an error. Real errors are exceptions.
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def _without_late_writes(report: Callable[[Any], object], unraisable: Any) -> None:
    """Reports an exception that nothing can catch, unless it is of a write that has ended after
    another one failed, for which Orbax no longer waits: there may be hundreds.
    """
    if unraisable.object or str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)


sys.unraisablehook = functools.partial(_without_late_writes, sys.unraisablehook)


def flatten(state: Any) -> dict[str, Any]:
    """{path: leaf}. Raises ValueError where a key has a "/", so that paths would be ambiguous."""
    for keys, _ in jax.tree_util.tree_flatten_with_path(state)[0]:
        if rules.path_name(keys).count("/") != len(keys) - 1:
            raise ValueError(f"state: a key has a '/' in {rules.path_name(keys)!r}; rename it")
    return dict(rules.paths(state))


def handler() -> ocp.PyTreeCheckpointHandler:
    """What reads and writes the arrays."""
    arrays = type_handlers.ArrayHandler(enable_write_sharding_file=False, array_metadata_store=None)
    registry = type_handlers.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, type_handlers.NumpyHandler())
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def restore(folder: Path, like: Mapping[str, Any]) -> dict[str, jax.Array]:
    """{path: array on the devices}; `like` has ShapeDtypeStructs with shardings.

    Orbax casts to the dtype of `like` without a word.
    """
    arguments = ocp.checkpoint_utils.construct_restore_args(like)
    return handler().restore(folder, args=ocp.args.PyTreeRestore(item=like, restore_args=arguments))


def read(folder: Path, path: str) -> np.ndarray:
    """One array, on the host. Raises ValueError where there is none of that path."""
    arguments = {path: ocp.RestoreArgs(restore_type=np.ndarray)}
    request = ocp.args.PyTreeRestore(item={path: 0}, restore_args=arguments, partial_restore=True)
    found = handler().restore(folder, args=request)[path]
    if not isinstance(found, np.ndarray):  # Orbax gives back the 0 of the request
        raise ValueError("state/_METADATA does not list it")
    return found
