"""Band and Sensor, and the check of a file's wavelengths. The numbers are in the other modules."""

from __future__ import annotations

import dataclasses
import difflib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from eo_jax.sensors.checks import (
    BAND_RULES,
    KINDS_WITHOUT_WAVELENGTH,
    SENSOR_RULES,
    Rule,
    check_names,
    require,
)


@dataclasses.dataclass(frozen=True)
class Band:
    """One band of a product. Values that nobody published are None, never a guess.

    Attributes:
        name: as in the product, "B8A", "VV".
        number: 1-based position in the product.
        centre_nm: centre wavelength; None for bands without one (SAR, elevation) and where it is
            not known.
        fwhm_nm: full width at half maximum.
        gsd_m: native ground sampling distance, which may be coarser than the grid the band is
            stored on.
        kind: one of `checks.KINDS`.
        scale, offset, units: where they differ from the sensor's, for example of thermal bands
            among reflective ones.
        bad: True where the product declares the band unusable, so that it is always no-data.
    """

    name: str
    number: int
    centre_nm: float | None
    fwhm_nm: float | None
    gsd_m: float | None = None
    kind: str = "reflective"
    scale: float | None = None
    offset: float | None = None
    units: str | None = None
    bad: bool | None = None


@dataclasses.dataclass(frozen=True)
class Sensor:
    """One product of one sensor, bands in storage order.

    Physical value = digital number x scale + offset, in `units`. Where the scale is not known it is
    1 and the units are "digital number". `mean` and `std` are in digital numbers, one per band, or
    empty where nobody published them; `statistics_source` is their origin. `nodata` is None where
    the product has no such value. `true_colour` and `false_colour` are band indices for red, green
    and blue, or None where there are no such bands. `source` is the origin of the band table.
    """

    id: str
    title: str
    bands: tuple[Band, ...]
    gsd_m: float | None
    dtype: str
    scale: float
    units: str
    nodata: float | None
    offset: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    statistics_source: str = ""
    true_colour: tuple[int, int, int] | None = None
    false_colour: tuple[int, int, int] | None = None
    source: str = ""

    @property
    def centres_nm(self) -> np.ndarray:
        """float64 [c]; NaN for bands without a wavelength."""
        return np.array(
            [np.nan if band.centre_nm is None else band.centre_nm for band in self.bands], float
        )

    @property
    def band_numbers(self) -> tuple[int, ...]:
        return tuple(band.number for band in self.bands)

    @property
    def scales(self) -> np.ndarray:
        """float64 [c]: physical value = digital number x scales + offsets."""
        return np.array(
            [self.scale if band.scale is None else band.scale for band in self.bands], float
        )

    @property
    def offsets(self) -> np.ndarray:
        """float64 [c]; see `scales`."""
        return np.array(
            [self.offset if band.offset is None else band.offset for band in self.bands], float
        )

    @property
    def axis(self) -> np.ndarray:
        """float64 [c], the x axis of spectra: centre wavelengths in nm.

        Band numbers where a band has no wavelength.
        """
        centres = self.centres_nm
        return centres if np.isfinite(centres).all() else np.array(self.band_numbers, float)

    @property
    def composite(self) -> tuple[int, int, int]:
        """Band indices to show as red, green and blue: true colour, else three spread evenly."""
        last = len(self.bands) - 1
        return self.true_colour or (last, last // 2, 0)

    def missing(self, pixels: np.ndarray) -> np.ndarray:
        """bool, like `pixels`: True where there is no data. NaN and infinity are never data."""
        if pixels.dtype.kind != "f":
            return np.zeros(pixels.shape, bool) if self.nodata is None else pixels == self.nodata
        missing = ~np.isfinite(pixels)
        return missing if self.nodata is None else missing | (pixels == self.nodata)

    def select(self, names: Sequence[str]) -> Sensor:
        """The sensor with some of its bands, named in the order of the table.

        Colours that lack a band become None. The new id ends in "<number>of<all>" and a checksum of
        the names. Raises ValueError for an unknown name, one given twice, or another order.
        """
        known = [band.name for band in self.bands]
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"no band {name!r} in {self.title}; there are {', '.join(known)}.{hint}"
                )
        kept = [index for index, name in enumerate(known) if name in names]
        ordered = [known[index] for index in kept]
        if list(names) != ordered:
            raise ValueError(
                f"{', '.join(names)}: not in the order of {self.title}, or not all different; "
                f"expected {', '.join(ordered)}"
            )

        def pick(values):
            return tuple(values[index] for index in kept) if values else ()

        def renumber(colours):
            has_all = colours and set(colours) <= set(kept)
            return tuple(map(kept.index, colours)) if has_all else None

        chosen = dataclasses.replace(
            self,
            id=f"{self.id}-{len(kept)}of{len(known)}-{zlib.crc32(','.join(ordered).encode()):08x}",
            title=f"{self.title}, {len(kept)} of them "
            f"({' to '.join([*ordered[:1], *ordered[1:][-1:]])})",
            bands=pick(self.bands),
            mean=pick(self.mean),
            std=pick(self.std),
            true_colour=renumber(self.true_colour),
            false_colour=renumber(self.false_colour),
        )
        chosen.check()
        return chosen

    def row(self) -> dict[str, Any]:
        """All fields as JSON types; `from_row` is the inverse."""
        columns = {
            field.name: [getattr(band, field.name) for band in self.bands]
            for field in dataclasses.fields(Band)
        }
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        listed = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }
        return {
            **listed,
            "bands": {
                name: column
                for name, column in columns.items()
                if any(value is not None for value in column)
            },
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Sensor:
        """The sensor of a `row`. Raises ValueError with the field for anything else."""
        check_names(
            "the row", row, _required(cls), [field.name for field in dataclasses.fields(cls)]
        )
        fields = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        sensor = cls(**{**fields, "bands": _bands_of_columns(row["bands"])})
        sensor.check()
        return sensor

    def check(self) -> None:
        """Raises ValueError with the field for a wrong type, unit or length."""
        for name, rule in SENSOR_RULES.items():
            require(name, getattr(self, name), rule)
        for index, band in enumerate(self.bands):
            _check_band(index, band)
        for name in ("name", "number"):
            values = [getattr(band, name) for band in self.bands]
            require(
                f"bands.{name}",
                values,
                (lambda values: len(set(values)) == len(values), "a different value for each band"),
            )
        found, bands = (len(self.mean), len(self.std)), len(self.bands)
        if found not in ((0, 0), (bands, bands)):
            raise ValueError(
                f"fields 'mean' and 'std' have {found[0]} and {found[1]} values, expected {bands} "
                "each, one per band, or none in both"
            )
        for name in ("true_colour", "false_colour"):
            within: Rule = (
                lambda values: values is None or max(values) < bands,
                f"indices below {bands}, the number of bands",
            )
            require(name, getattr(self, name), within)


def numbered_bands(count: int, gsd_m: float | None) -> tuple[Band, ...]:
    """Bands "band 1" to "band <count>" of a product whose wavelengths nobody published."""
    return tuple(
        Band(f"band {number}", number, None, None, gsd_m=gsd_m) for number in range(1, count + 1)
    )


def _required(record: type) -> list[str]:
    return [
        field.name for field in dataclasses.fields(record) if field.default is dataclasses.MISSING
    ]


def _check_band(index: int, band: Band) -> None:
    for name, rule in BAND_RULES.items():
        require(f"bands.{name}[{index}]", getattr(band, name), rule)
    if band.kind in KINDS_WITHOUT_WAVELENGTH and band.centre_nm is not None:
        raise ValueError(
            f"field 'bands.centre_nm[{index}]' is {band.centre_nm!r}, expected null, as bands of "
            f"kind {band.kind!r} have none"
        )


def _bands_of_columns(columns: Any) -> tuple[Band, ...]:
    """The bands of {field: [one value per band]}; absent columns have the default, or None."""
    defaults = {
        field.name: None if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(Band)
    }
    check_names("field 'bands'", columns, ["name", "number"], list(defaults))
    for name, column in columns.items():
        require(
            f"bands.{name}",
            column,
            (lambda column: isinstance(column, list), "a list with one value per band"),
        )
    lengths = {name: len(column) for name, column in columns.items()}
    require(
        "bands",
        lengths,
        (
            lambda lengths: len(set(lengths.values())) == 1,
            "columns of one length, with one value per band",
        ),
    )
    return tuple(
        Band(**{**defaults, **dict(zip(columns, values, strict=True))})
        for values in zip(*columns.values(), strict=True)
    )


# The largest difference of a file's wavelength from the table. Scenes differ by up to 0.5 nm;
# neighbouring bands of one camera are at least 4.6 nm apart.
WAVELENGTH_TOLERANCE_NM = 1.0
# Sources round the centres of broad bands, or take those of another satellite of the series.
_BROAD_TOLERANCE_NM = 30.0
_BROAD_BANDS = 30  # a sensor with fewer bands has broad ones


def wavelength_tolerances_nm(sensor: Sensor) -> np.ndarray:
    """float64 [c], how far a stated wavelength may be from that of the table.

    For a multispectral sensor less than half the way to the next band, so that no band is taken for
    another.
    """
    centres = sensor.centres_nm
    if len(centres) >= _BROAD_BANDS:
        return np.full(len(centres), WAVELENGTH_TOLERANCE_NM)
    distance = np.abs(centres[:, None] - centres[None])
    np.fill_diagonal(distance, np.inf)
    nearest = np.nanmin(np.where(np.isnan(distance), np.inf, distance), axis=1)
    return np.clip(0.45 * nearest, WAVELENGTH_TOLERANCE_NM, _BROAD_TOLERANCE_NM)


def check_wavelengths(sensor: Sensor, found_nm: np.ndarray, source: str) -> None:
    """Raises ValueError with file and bands where wavelengths [c] do not belong to `sensor`.

    Bands whose wavelength the table does not know pass.
    """
    if len(found_nm) != len(sensor.bands):
        raise ValueError(
            f"{source}: {len(found_nm)} wavelengths found, {len(sensor.bands)} expected for "
            f"{sensor.title}"
        )
    distance = np.abs(np.asarray(found_nm, float) - sensor.centres_nm)
    known = np.isfinite(sensor.centres_nm)
    # This comparison is also True for NaN in the file.
    tolerances = wavelength_tolerances_nm(sensor)
    off = np.flatnonzero(known & ~(distance <= tolerances))
    if len(off):
        first = sensor.bands[off[0]]
        raise ValueError(
            f"{source}: {len(off)} of {len(sensor.bands)} wavelengths are not those of "
            f"{sensor.title}; first: band {first.number} has {found_nm[off[0]]:g} nm, expected "
            f"{first.centre_nm:g} +- {tolerances[off[0]]:g} nm. Bands may be in another order "
            "or unit: write them in product order, with centre wavelengths in nm."
        )
