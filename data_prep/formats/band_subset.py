"""The option --bands of readers: files with some of a sensor's bands, or files of which some are
kept. Stores have them in the order of the sensor table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from data_prep.formats.band_identity import Bands
from data_prep.reader import option
from eo_jax.sensors import Sensor


def bands_option() -> Any:
    """The option --bands of a reader with --sensor."""
    return option(
        (),
        "names of the bands of --sensor that are kept; files have all its bands, or these in the "
        "order given here (default: all bands)",
        metavar="NAME",
    )


def reduced(sensor: Sensor, names: Sequence[str]) -> Sensor:
    """The sensor with the named bands only, in its own order; all of it without names.

    Raises ValueError for a name that it does not have, or one given twice.
    """
    if not names:
        return sensor
    order = {band.name: index for index, band in enumerate(sensor.bands)}
    try:
        return sensor.select(sorted(names, key=lambda name: order.get(name, -1)))
    except ValueError as error:
        raise ValueError(f"--bands: {error}") from error


def identify_some(
    name: str,
    found: int,
    sensor: Sensor,
    names: Sequence[str],
    identify: Callable[[Sensor], Bands],
) -> Bands:
    """The bands of `reduced(sensor, names)` in a file with `found` bands.

    `identify` gives the bands of a sensor in that file. Raises ArchiveError where the file has
    neither the named bands nor all bands of the sensor, or other ones.
    """
    if not names:
        return identify(sensor)
    check_found(name, found, sensor, names)
    order = {band.name: index for index, band in enumerate(sensor.bands)}
    wanted = sorted(names, key=order.__getitem__)
    if found != len(names):
        return identify(sensor).pick([order[each] for each in wanted])
    if wanted != list(names):
        remarks.note("bands put from the order of --bands into that of the sensor table")
    return identify(_in_order(sensor, names)).pick([list(names).index(each) for each in wanted])


def check_found(name: str, found: int, sensor: Sensor, names: Sequence[str]) -> None:
    """Raises ArchiveError for a number of bands that is neither of the two."""
    if found not in (len(names), len(sensor.bands)):
        raise ArchiveError(
            name,
            f"{found} bands, expected the {len(names)} of --bands, or all {len(sensor.bands)} of "
            f"{sensor.title}; name those that the files have",
        )


def _in_order(sensor: Sensor, names: Sequence[str]) -> Sensor:
    """A row for comparison with a file: only these bands, in this order."""
    bands = {band.name: band for band in sensor.bands}
    return dataclasses.replace(
        sensor,
        bands=tuple(bands[name] for name in names),
        mean=(),
        std=(),
        true_colour=None,
        false_colour=None,
    )
