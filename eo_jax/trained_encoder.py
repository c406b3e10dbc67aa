"""A trained encoder with all that its input needs: from a file of `eo_jax.export`, or a run."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax.augment.radiometry import normalise
from eo_jax.checkpoint import leaf_hashes, state_hash
from eo_jax.config import parse_named
from eo_jax.exchange import matching
from eo_jax.exchange.contract import pooling_of
from eo_jax.exchange.importing import Source, weights_of
from eo_jax.exchange.positions import check_image_size, resized
from eo_jax.load import load
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.run_encoder import encoder_of_run
from eo_jax.schema import Carry, Params
from eo_jax.sensors import Sensor

_MOST_VIEW_BYTES = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """An encoder with its weights, computing in float32.

    Attributes:
        name: of the encoder: "enmap.teacher".
        encoder: its structure; `encoder.sensor` is what it reads.
        params, statistics: its weights and running statistics.
        mean, std: float32 [c], in digital numbers.
        view: side in pixels of the images that it takes.
    """

    name: str
    encoder: Encoder
    params: Params
    statistics: Carry
    mean: np.ndarray
    std: np.ndarray
    view: int

    @property
    def sensor(self) -> Sensor:
        """The sensor whose bands it reads, in their order."""
        return self.encoder.sensor

    @property
    def patch(self) -> int:
        """Side in pixels of one dense feature."""
        return self.encoder.patch

    @property
    def width(self) -> int:
        """Number of channels of its features."""
        return self.encoder.width

    @property
    def side(self) -> int:
        """Rows, and columns, of tokens in a view."""
        return self.view // self.patch

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What decides its features, in plain JSON types; equal for equal features."""
        weights = state_hash(leaf_hashes({"params": self.params, "statistics": self.statistics}))
        return {
            "encoder": self.name,
            "sensor": self.sensor.id,
            "bands": [band.name for band in self.sensor.bands],
            "weights_sha256": weights,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "view": self.view,
            "patch": self.patch,
            "width": self.width,
            "pool": pooling_of(self.encoder),
        }

    def pooled(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, d] of views: digital numbers float32 and valid mask, both [b, c, H, W]."""
        return jax.device_get(self._functions[0](self.params, self.statistics, pixels, valid))

    def dense(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, h, w, d] of the same."""
        return jax.device_get(self._functions[1](self.params, self.statistics, pixels, valid))

    @functools.cached_property
    def _functions(self) -> tuple[Any, Any]:
        def features(params: Params, statistics: Carry, pixels: jax.Array, valid: jax.Array):
            view = normalise(pixels, valid, self.mean, self.std)
            return self.encoder.features(
                params, statistics, jnp.moveaxis(view, 1, -1), jnp.moveaxis(valid, 1, -1)
            )

        # Two functions, so that XLA leaves out what is not asked for.
        return (
            jax.jit(lambda *inputs: features(*inputs)["pooled"]),
            jax.jit(lambda *inputs: features(*inputs)["dense"]),
        )


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
