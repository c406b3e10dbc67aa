"""Quantises pixels to uint8 by their published formulas, clipping instead of wrapping around."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_prep.archive import ArchiveError
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor, get_sensor

_MAX = 255


@dataclasses.dataclass(frozen=True)
class Formula:
    """uint8 = floor(clip((DN - low) / (high - low), 0, 1) x 255); `low` and `high` have one digital
    number per band.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    source: str

    @property
    def text(self) -> str:
        """The formula as the manifest states it."""
        lows, highs = (
            ", ".join(f"{value:g}" for value in dict.fromkeys(values))
            for values in (self.low, self.high)
        )
        return (
            f"uint8 = floor(255 x clip((DN - low) / (high - low), 0, 1)); low {lows}; high "
            f"{highs}; {self.source}"
        )


def _same_range(sensor: str, low: float, high: float, source: str) -> tuple[str, Formula]:
    bands = len(get_sensor(sensor).bands)
    return sensor, Formula((low,) * bands, (high,) * bands, source)


def _around_mean(sensor: str, source: str) -> tuple[str, Formula]:
    """From two standard deviations below the published mean to two above."""
    moments = list(zip(get_sensor(sensor).mean, get_sensor(sensor).std, strict=True))
    return sensor, Formula(
        tuple(mean - 2 * std for mean, std in moments),
        tuple(mean + 2 * std for mean, std in moments),
        source,
    )


_S12 = "SSL4EO-S12 (arXiv 2211.07044), whose code wraps where this clips"
FORMULAS = dict(
    (
        _same_range("sentinel2_l1c", 0, 10_000, _S12),
        _same_range("sentinel2_l2a", 0, 10_000, _S12),
        _same_range("sentinel2_so2sat", 0, 1, _S12),
        _around_mean("sentinel1_grd", "SSL4EO-S12 (arXiv 2211.07044)"),
    )
)


@dataclasses.dataclass(frozen=True)
class Quantiser:
    """Quantises samples of the sensors `originals`."""

    originals: tuple[Sensor, ...]

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The rows of the quantised products."""
        return tuple(_quantised_row(sensor) for sensor in self.originals)

    def about(self) -> dict[str, str]:
        """{sensor: formula} for the manifest."""
        return {sensor.id: formula(sensor).text for sensor in self.originals}

    def apply(self, sample: Sample, name: str) -> Sample:
        """The sample as uint8.

        Raises ArchiveError for a sensor without a formula, and for no-data values, which uint8 has
        no code for.
        """
        original = next((sensor for sensor in self.originals if sensor.id == sample.sensor), None)
        if original is None:
            hint = (
                "leave --dtype out, or choose reader options that give "
                f"{', '.join(sensor.id for sensor in self.originals)}"
            )
            raise ArchiveError(
                name, f"--dtype uint8: no formula is published for {sample.sensor}; {hint}"
            )
        if original.missing(sample.pixels).any():
            raise ArchiveError(
                name, "has no-data values, which --dtype uint8 cannot keep; convert without --dtype"
            )
        low, high = (
            np.array(values)[:, None, None]
            for values in (formula(original).low, formula(original).high)
        )
        scaled = np.clip((sample.pixels.astype(np.float64) - low) / (high - low), 0, 1)
        return dataclasses.replace(
            sample,
            pixels=np.floor(scaled * _MAX).astype(np.uint8),
            sensor=_quantised_row(original).id,
        )


def formula(sensor: Sensor) -> Formula | None:
    """The formula of a sensor, or of the sensor whose row was changed to another dtype; None where
    none is published.
    """
    return FORMULAS.get(sensor.id.removesuffix(f"_{sensor.dtype}"))


def make(dtype: str, sensors: Sequence[Sensor]) -> Quantiser | None:
    """The quantiser of --dtype; None for "archive".

    Raises ValueError where no formula is published for any of the sensors.
    """
    if dtype == "archive":
        return None
    known = tuple(sensor for sensor in sensors if formula(sensor))
    if not known:
        names = ", ".join(sensor.id for sensor in sensors)
        raise ValueError(
            f"--dtype {dtype}: no formula is published for {names}; there are formulas for "
            f"{', '.join(FORMULAS)}"
        )
    return Quantiser(known)


def _quantised_row(sensor: Sensor) -> Sensor:
    """The row of the quantised product: physical value = uint8 x scale + offset of each band."""
    limits = formula(sensor).low, formula(sensor).high
    columns = zip(
        sensor.bands, *limits, sensor.scales.tolist(), sensor.offsets.tolist(), strict=True
    )
    bands = tuple(
        dataclasses.replace(band, scale=(high - low) / _MAX * scale, offset=low * scale + offset)
        for band, low, high, scale, offset in columns
    )
    title = f"{sensor.title}, as uint8"
    return dataclasses.replace(
        sensor,
        id=f"{sensor.id}_uint8",
        title=title,
        bands=bands,
        dtype="uint8",
        mean=(),
        std=(),
        statistics_source="",
    )
