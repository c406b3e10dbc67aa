"""What is judged: trained encoders from files and runs, and floors beside them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from eo_jax.augment.radiometry import normalise
from eo_jax.encoder_loading import from_file, from_workdir
from eo_jax.evaluation.features import Featurizer, dates_of
from eo_jax.evaluation.floors import (
    FROM_SCRATCH,
    IMAGE_STATISTICS,
    RANDOM,
    UNTRAINED,
    ImageStatistics,
    RandomConvolutions,
)
from eo_jax.evaluation.pooled_encoder import pooled_by
from eo_jax.evaluation.protocol import EvaluationProtocol
from eo_jax.evaluation.reading import TaskData, statistics_of
from eo_jax.models.functional import TRAIN
from eo_jax.trained_encoder import TrainedEncoder

# Batches that set the BatchNorm statistics of an untrained encoder: with momentum 0.1, 0.9^30 = 4 %
# of the initial values remain.
_STATISTICS_BATCHES = 30


def load(path: Path, view: int = 0) -> TrainedEncoder:
    """The encoder of an exported file, or of a run's folder, for views of `view` pixels."""
    return from_workdir(path, view=view) if path.is_dir() else from_file(path, view)


def adapted(
    trained: TrainedEncoder, data: TaskData, protocol: EvaluationProtocol
) -> TrainedEncoder:
    """The encoder with the pooled feature and the normalisation of a protocol."""
    if protocol.normalisation == "data":
        mean, std = statistics_of(data)
        trained = dataclasses.replace(trained, mean=mean, std=std)
    return dataclasses.replace(trained, encoder=pooled_by(trained.encoder, protocol.pooling))


def floors(
    trained: TrainedEncoder, data: TaskData, protocol: EvaluationProtocol
) -> dict[str, Featurizer]:
    """{title: floor}: image statistics, random convolutions and the same encoder untrained; where
    the protocol trains the encoder, the same from scratch.
    """
    initial = untrained(trained, data)
    if hasattr(protocol, "fine_tune"):
        return {FROM_SCRATCH: initial}
    inputs = trained.mean, trained.std, trained.patch
    return {
        IMAGE_STATISTICS: ImageStatistics(*inputs),
        RANDOM: RandomConvolutions(*inputs),
        UNTRAINED: initial,
    }


def untrained(trained: TrainedEncoder, data: TaskData, seed: int = 0) -> TrainedEncoder:
    """The encoder with initial weights, and BatchNorm statistics of training windows, without which
    a random network would score too low.
    """
    encoder = trained.encoder
    params, statistics = encoder.network.init(jax.random.key(seed))
    if statistics:
        update = jax.jit(functools.partial(updated_statistics, trained, params))
        batches = itertools.islice(data.read(data.task.train), _STATISTICS_BATCHES)
        for batch in batches:
            for date in dates_of(batch):
                statistics = update(statistics, date.pixels, date.valid)
    arrays = jax.device_get((params, statistics))
    return dataclasses.replace(
        trained, name=f"{trained.name}, untrained", params=arrays[0], statistics=arrays[1]
    )


def updated_statistics(
    trained: TrainedEncoder, params: Any, statistics: Any, pixels: jax.Array, valid: jax.Array
) -> Any:
    """The running statistics after a batch of windows [b, c, H, W]."""
    view = jnp.moveaxis(normalise(pixels, valid, trained.mean, trained.std), 1, -1)
    _, statistics = trained.encoder.forward(
        params, statistics, view, jnp.moveaxis(valid, 1, -1), TRAIN
    )
    return statistics
