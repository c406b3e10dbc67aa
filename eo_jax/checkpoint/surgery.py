"""New checkpoints and files made of saved ones."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax.checkpoint.manifest import Leaf
from eo_jax.checkpoint.saved import Saved
from eo_jax.checkpoint.workdir import Checkpoints
from eo_jax.data.store.files import write_atomically, writing

_AVERAGED = ("params/", "carry/")
_PROVENANCE = ("config.json", "data.json", "versions.json")


def average(checkpoints: Sequence[Saved], workdir: Path) -> int:
    """Writes a workdir with one checkpoint: the mean of weights, teachers and running statistics.

    Everything else is that of the last one: step, config, optimizer, integers. Sums are in float64.

    Returns:
        How many arrays are averages.

    Raises:
        ValueError: the checkpoints have other arrays, or `workdir` holds a run.
    """
    last = checkpoints[-1]
    for saved in checkpoints[:-1]:
        _check_same_arrays(saved, last)
    if Checkpoints(workdir).latest() is not None:
        raise ValueError(f"{workdir}: holds a run already; give a new folder")
    averaged = {
        path: _mean(checkpoints, path)
        for path, leaf in last.manifest.leaves.items()
        if path.startswith(_AVERAGED) and jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    state = jax.tree_util.tree_map_with_path(
        lambda keys, array: jnp.asarray(averaged.get("/".join(key.key for key in keys), array)),
        last.arrays(),
    )
    about = last.manifest
    with Checkpoints(workdir) as made:
        made.save(last.step, state, about.config, about.bad_records, origin=last.step)
    _copy_provenance(last.folder.parent.parent, workdir)
    return len(averaged)


def _check_same_arrays(saved: Saved, last: Saved) -> None:
    kinds = [
        {path: leaf.kind for path, leaf in found.manifest.leaves.items()} for found in (saved, last)
    ]
    for path in sorted(kinds[0].keys() | kinds[1].keys()):
        found, expected = (kind.get(path, "absent") for kind in kinds)
        if found != expected:
            raise ValueError(
                f"{saved.folder}: array {path} is {found}, but {expected} in {last.folder}; only "
                "checkpoints of one network can be averaged"
            )


def _mean(checkpoints: Sequence[Saved], path: str) -> np.ndarray:
    total = sum(saved.array(path).astype(np.float64) for saved in checkpoints)
    leaf: Leaf = checkpoints[-1].manifest.leaves[path]
    return (total / len(checkpoints)).astype(jnp.dtype(leaf.dtype))


def _copy_provenance(source: Path, workdir: Path) -> None:
    """What exports and reports read beside the checkpoints."""
    with writing(workdir):
        for name in _PROVENANCE:
            if (source / name).is_file():
                shutil.copyfile(source / name, workdir / name)


def extract(saved: Saved, pattern: str, output: Path) -> list[str]:
    """Writes the arrays whose path matches a regex from its start to an NPZ file; returns the
    paths.

    bfloat16, which NPZ files cannot hold, becomes float32.

    Raises ValueError where none matches.
    """
    try:
        matching = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--paths: {pattern!r} is not a regex ({error})") from error
    paths = [path for path in saved.manifest.leaves if matching.match(path)]
    if not paths:
        first = ", ".join(list(saved.manifest.leaves)[:5])
        raise ValueError(f"--paths: {pattern!r} matches no array of {saved.folder}; first: {first}")
    if output.suffix != ".npz" or not output.parent.is_dir():
        raise ValueError(f"--output: {output}; expected a file .npz in a folder that exists")
    buffer = io.BytesIO()
    np.savez(buffer, **{path: _plain(saved.array(path)) for path in paths})
    write_atomically(output, buffer.getvalue())
    return paths


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
