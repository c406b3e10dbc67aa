"""Turns pixels into uint8 by the formulas that were published for them, clipped and never wrapped.
Everything else is stored as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_prep.archive import ArchiveError
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor, get_sensor

_TOP = 255


@dataclasses.dataclass(frozen=True)
class Formula:
    """uint8 = floor(clip((DN - low) / (high - low), 0, 1) x 255), low and high one number a band,
    in digital numbers.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    source: str

    @property
    def text(self) -> str:
        """As the manifest has it."""
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
    """What becomes of the samples of some sensors."""

    originals: tuple[Sensor, ...]

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The rows of what comes out."""
        return tuple(_quantised(sensor) for sensor in self.originals)

    def about(self) -> dict[str, str]:
        """{sensor: formula} for the manifest."""
        return {sensor.id: formula(sensor).text for sensor in self.originals}

    def apply(self, sample: Sample, name: str) -> Sample:
        """The sample as uint8. Raises ArchiveError for a sensor without a formula, and for no-data,
        which uint8 has no value for.
        """
        original = next((sensor for sensor in self.originals if sensor.id == sample.sensor), None)
        if original is None:
            cure = (
                "leave --dtype out, or choose options of the reader that give "
                f"{', '.join(sensor.id for sensor in self.originals)}"
            )
            raise ArchiveError(
                name, f"--dtype uint8: nobody published a formula for {sample.sensor}; {cure}"
            )
        if original.missing(sample.pixels).any():
            raise ArchiveError(
                name, "has no-data values, which --dtype uint8 cannot keep; convert without --dtype"
            )
        low, high = (
            np.array(values)[:, None, None]
            for values in (formula(original).low, formula(original).high)
        )
        share = np.clip((sample.pixels.astype(np.float64) - low) / (high - low), 0, 1)
        return dataclasses.replace(
            sample, pixels=np.floor(share * _TOP).astype(np.uint8), sensor=_quantised(original).id
        )


def formula(sensor: Sensor) -> Formula | None:
    """The formula of a sensor, also where its row was derived for another dtype; None where nobody
    published one.
    """
    return FORMULAS.get(sensor.id.removesuffix(f"_{sensor.dtype}"))


def make(dtype: str, sensors: Sequence[Sensor]) -> Quantiser | None:
    """The quantiser of --dtype; None for "archive". Raises ValueError where nobody published a
    formula for any of the sensors.
    """
    if dtype == "archive":
        return None
    known = tuple(sensor for sensor in sensors if formula(sensor))
    if not known:
        names = ", ".join(sensor.id for sensor in sensors)
        raise ValueError(
            f"--dtype {dtype}: nobody published a formula for {names}; there is one for "
            f"{', '.join(FORMULAS)}"
        )
    return Quantiser(known)


def _quantised(sensor: Sensor) -> Sensor:
    """The row of the quantised product: physical value = uint8 x scale + offset of each band."""
    low_high = formula(sensor).low, formula(sensor).high
    columns = zip(
        sensor.bands, *low_high, sensor.scales.tolist(), sensor.offsets.tolist(), strict=True
    )
    bands = tuple(
        dataclasses.replace(band, scale=(high - low) / _TOP * scale, offset=low * scale + offset)
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
