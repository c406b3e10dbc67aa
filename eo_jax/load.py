"""Reads exported weights with numpy alone, and prepares their input.

    from eo_jax.load import load

    weights = load("encoder.safetensors")
    view = weights.normalise(pixels, sensor="enmap", bands=names)      # float32 [b, c, h, w]

Whatever does not fit the contract is an error that says why; nothing is converted, reordered or
filled in silently. JAX is not needed. For PyTorch there is `eo_jax_torch.py`.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.exchange import matching
from eo_jax.exchange.opening import open_weights
from eo_jax.exchange.reading import Tensors
from eo_jax.sensors.base import Sensor


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """The content of an exported file.

    Attributes:
        tensors: {key of the PyTorch network: array}.
        contract: what the network is, what its input has to be, what it was trained on.
        sensor: the product that the encoder is for; its bands are the encoder's, in their order.
        mean, std: float32 [c], in digital numbers.
    """

    tensors: Tensors = dataclasses.field(repr=False)
    contract: dict[str, Any] = dataclasses.field(repr=False)
    sensor: Sensor
    mean: np.ndarray = dataclasses.field(repr=False)
    std: np.ndarray = dataclasses.field(repr=False)

    def normalise(
        self,
        pixels: np.ndarray,
        *,
        sensor: str,
        bands: Sequence[str] | None = None,
        nm: Sequence[float] | None = None,
        scale: float | Sequence[float] | None = None,
        offset: float | Sequence[float] | None = None,
        nodata: float | None = None,
        reorder: bool = False,
    ) -> np.ndarray:
        """The encoder's input from the digital numbers of images.

        Args:
            pixels: [b, c, h, w], as the product stores them.
            sensor: id of their product, "enmap" or "sentinel2_l2a".
            bands, nm: names and centre wavelengths of their bands, in their order. One of them is
                needed; both are compared.
            scale, offset, nodata: what their file says of them, if it does; compared with the
                product's. Scales of single bands are in the order of the pixels.
            reorder: takes the encoder's bands by name, with a warning where that moves or leaves
                out some.

        Returns:
            float32 [b, c, h, w], (digital number - mean) / std, 0 where there is no data.

        Raises:
            ValueError: anything is not what the contract says; the message names it.
        """
        if pixels.ndim != 4:
            raise ValueError(f"pixels: have shape {pixels.shape}, expected [b, c, h, w]")
        order = matching.band_order(self.sensor, bands, nm, reorder)
        stated = len(order) if bands is None else len(bands)
        if pixels.shape[1] != stated:
            raise ValueError(f"pixels: have {pixels.shape[1]} bands, expected {stated} (axis 1)")
        scale, offset = _taken(scale, order), _taken(offset, order)
        matching.check_product(self.sensor, sensor, pixels.dtype.name, scale, offset, nodata)
        matching.check_size(self.contract, *pixels.shape[2:])
        if order != list(range(stated)):
            warnings.warn(f"bands taken by name from positions {order}", stacklevel=2)
            pixels = pixels[:, order]
        return matching.normalised(self.mean, self.std, self.sensor, pixels)


def load(path: str | os.PathLike) -> Weights:
    """The weights and the contract of an exported file, each compared with its checksum.

    Args:
        path: .safetensors, or the .safetensors.index.json of several.

    Raises:
        ValueError: the file is not one of `eo_jax.export`, or not what was exported; the message
            names the tensor or the field.
    """
    path = Path(path)
    tensors, contract = open_weights(path)
    if contract is None:
        raise ValueError(
            f"{path}: has no contract, so its bands, heads and normalisation are not known; load "
            "weights that `python -m eo_jax.export` wrote as safetensors"
        )
    try:
        sensor = Sensor.from_row(contract["sensor"])
        mean, std = matching.statistics(contract, sensor)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: its contract is not one of an export: {error}") from error
    return Weights(tensors, contract, sensor, mean, std)


def _taken(values: Any, order: list[int]) -> Any:
    """Values of single bands in the encoder's order; one for all bands, or none, as they are."""
    if values is None or np.ndim(values) == 0:
        return values
    if len(values) <= max(order):
        raise ValueError(f"scale, offset: {len(values)} values; expected one, or one for each band")
    return np.asarray(values)[order]
