"""Trained encoders from files of `eo_jax.export`, and from runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from eo_jax.config import parse_named
from eo_jax.exchange import matching
from eo_jax.exchange.importing import Source, weights_of
from eo_jax.exchange.positions import check_image_size, resized
from eo_jax.load import load
from eo_jax.models.encoder import make_encoder
from eo_jax.run_encoder import encoder_of_run
from eo_jax.trained_encoder import TrainedEncoder

_MOST_VIEW_BYTES = 2**30


def from_file(path: Path, view: int = 0) -> TrainedEncoder:
    """The encoder of a file that `eo_jax.export` wrote.

    Args:
        view: side in pixels of its views; 0 for that of training.

    Raises ValueError for other files, and where contract and weights do not fit each other.
    """
    weights = load(path)
    contract = weights.contract
    try:
        _, stem = parse_named("models/stems", contract["stem"], "model.stem")
        _, trunk = parse_named("models/trunks", contract["trunk"], "model.trunk")
        encoder = make_encoder(stem, trunk, weights.sensor, np.dtype(np.float32))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: its contract is not one of an export: {error}") from error
    size = contract["image_size"]
    source = Source(path, contract["layout"])
    imported = weights_of(weights.tensors, contract, source, encoder, size)
    found = (imported.params, imported.statistics, weights.mean, weights.std)
    return _sized(TrainedEncoder(contract["encoder"], encoder, *found, size), view)


def from_workdir(workdir: Path, name: str = "", view: int = 0) -> TrainedEncoder:
    """An encoder of a run's last checkpoint, by default the objective's first."""
    run = encoder_of_run(workdir, name)
    trained = run.encoder
    mean, std = matching.statistics(run.fingerprint["normalisation"], trained.sensor)
    encoder = make_encoder(trained.stem, trained.trunk, trained.sensor, np.dtype(np.float32))
    return _sized(
        TrainedEncoder(run.name, encoder, run.params, run.statistics, mean, std, run.image_size),
        view,
    )


def _sized(trained: TrainedEncoder, view: int) -> TrainedEncoder:
    """The same for views of another size. Raises ValueError for one that it does not take."""
    view = view or trained.view
    check_image_size(trained.encoder, view, "--view")
    view_bytes = 4 * len(trained.sensor.bands) * view**2
    if view_bytes > _MOST_VIEW_BYTES:
        raise ValueError(
            f"--view: {view}; a view of {len(trained.sensor.bands)} bands takes "
            f"{view_bytes / 1e6:,.0f} MB, at most {_MOST_VIEW_BYTES / 1e6:,.0f} MB"
        )
    encoder, params = resized(trained.encoder, trained.params, view, "--view")
    return dataclasses.replace(trained, encoder=encoder, params=params, view=view)
