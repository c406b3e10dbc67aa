"""New checkpoints and files made of saved ones."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax.checkpoint.manifest import Leaf
from eo_jax.checkpoint.saved import Saved
from eo_jax.checkpoint.workdir import Checkpoints
from eo_jax.data.store.files import write_atomically, writing

_AVERAGED = ("params/", "carry/")
_PROVENANCE = ("config.json", "data.json", "versions.json")
_SAME_SECTIONS = ("model", "objective")  # of the config
_INPUT = ("sensor", "normalisation")  # of a source in data.json


def average(checkpoints: Sequence[Saved], workdir: Path) -> int:
    """Writes a workdir with one checkpoint: the mean of weights, teachers and running statistics.

    Everything else is that of the last one: step, config, optimizer, integers. Sums are in float64.

    Returns:
        How many arrays are averages.

    Raises:
        ValueError: the checkpoints are of other networks, objectives or inputs, or `workdir` holds
            a run.
    """
    last = checkpoints[-1]
    for saved in checkpoints[:-1]:
        _check_same_arrays(saved, last)
        _check_same_meaning(saved, last)
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
    _copy_provenance(last.workdir, workdir)  # first, so that no checkpoint is ever without it
    about = last.manifest
    with Checkpoints(workdir) as made:
        made.save(last.step, state, about.config, about.bad_records, origin=last.step)
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


def _check_same_meaning(saved: Saved, last: Saved) -> None:
    """Arrays of equal shapes may be of other heads, objectives or bands."""
    for name in _SAME_SECTIONS:
        sections = [found.manifest.config.get(name, {}) for found in (saved, last)]
        _check_same(f"config.{name}", *sections, saved, last)
    inputs = [_inputs(found.workdir) for found in (saved, last)]
    if all(inputs):
        _check_same("data.json", *inputs, saved, last)


def _check_same(name: str, found: Any, expected: Any, saved: Saved, last: Saved) -> None:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            _check_same(f"{name}.{key}", found.get(key), expected.get(key), saved, last)
    elif found != expected:
        raise ValueError(
            f"{saved.folder}: {name} is {found!r:.90}, but {expected!r:.90} in {last.folder}; only "
            "checkpoints of one network, trained for the same on the same input, can be averaged"
        )


def _inputs(workdir: Path) -> dict[str, Any]:
    """{source: what its pixels mean}; empty where the run does not say."""
    path = workdir / "data.json"
    content = json.loads(path.read_bytes()) if path.is_file() else {}
    return {name: {key: about.get(key) for key in _INPUT} for name, about in content.items()}


def _mean(checkpoints: Sequence[Saved], path: str) -> np.ndarray:
    total = sum(saved.array(path).astype(np.float64) for saved in checkpoints)
    leaf: Leaf = checkpoints[-1].manifest.leaves[path]
    return (total / len(checkpoints)).astype(jnp.dtype(leaf.dtype))


def _copy_provenance(source: Path, workdir: Path) -> None:
    """What exports and reports read beside the checkpoints."""
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    for name in _PROVENANCE:
        if (source / name).is_file():
            write_atomically(workdir / name, (source / name).read_bytes())


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
