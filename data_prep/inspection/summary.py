"""Describes a store in words and tables of text, for the terminal and the page."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from data_prep.statistics.moments import raw_bytes, stored_bytes
from eo_jax.data import Store
from eo_jax.sensors import Sensor

# Limits in nm, as usual in spectroscopy of vegetation and soil.
REGIONS = {
    "visible": (400, 690),
    "red edge": (690, 780),
    "near infrared": (780, 1300),
    "SWIR 1": (1300, 1900),
    "SWIR 2": (1900, 2500),
}
_MANY_BANDS = 20  # more are summed up by region
_NO_TIME = np.iinfo(np.int64).min
_SHOWN = ("archive", "sensors", "splits", "groups", "labels", "statistics")
_MOMENTS = ("mean", "std", "min", "max", "nodata_share")


class Rows(NamedTuple):
    """A table: title, names of columns, and rows of as many texts."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sensors_of(store: Store) -> list[Sensor]:
    """The sensors in the manifest of a store, sorted by id."""
    return [store.sensor(name) for name in sorted(store.manifest["sensors"])]


def overview(store: Store) -> dict[str, str]:
    """Samples, locations, dates, splits and sizes.

    Raises StoreError where the manifest lacks a field that this or a table below needs.
    """
    for field in _SHOWN:
        store.about(field)
    manifest, index = store.manifest, store.index
    stored, raw = stored_bytes(store), raw_bytes(store)
    archive, shapes = (
        manifest["archive"],
        Counter(map(tuple, index["shape"].tolist())).most_common(3),
    )
    nodata = index["nodata_share"]
    splits = ", ".join(f"{name} {count}" for name, count in sorted(manifest["splits"].items()))
    return {
        "archive": f"{archive.get('name')} (reader {archive.get('reader')}, "
        f"{archive.get('files', 0)} files)",
        "samples": f"{len(store)} ({splits})",
        "bands": "; ".join(map(bands, sensors_of(store))),
        "locations": f"{manifest['groups']} ({_dates_per_location(index['group'])})",
        "dates": _dates(index["time"]),
        "position": _extent(index["lonlat"]),
        "shapes": ", ".join(f"{' x '.join(map(str, shape))} ({count})" for shape, count in shapes),
        "pixels": ", ".join(
            f"{dtype} ({count})" for dtype, count in Counter(index["dtype"].tolist()).most_common()
        ),
        "no-data": f"{nodata.mean() if len(nodata) else 0:.3%} of all values; {(nodata > 0).sum()} "
        "samples have some",
        "size": f"{stored / 1e6:,.1f} MB in {len(manifest['shards'])} shards; raw pixels "
        f"{raw / 1e6:,.1f} MB, ratio {raw / max(stored, 1):.2f}",
        "format": store.format,
        "left out": _left_out(manifest),
        "stated by files": _counted(manifest.get("found", {})) or "nothing",
        "shared ground": _counted(manifest.get("shared_ground", {})) or "none",
        "content": store.content_hash[:16],
    }


def bands(sensor: Sensor) -> str:
    """Number of bands, wavelengths where known, and title."""
    nm, count = sensor.centres_nm[np.isfinite(sensor.centres_nm)], len(sensor.bands)
    span = (
        f", {nm.min():.0f} to {nm.max():.0f} nm"
        if len(nm) == count
        else ", wavelengths not known"
        if not len(nm) and count > 3
        else ""
    )
    return f"{count}{span} ({sensor.title})"


def _dates_per_location(groups: np.ndarray) -> str:
    times = Counter(Counter(groups.tolist()).values()).most_common(5)
    return ", ".join(
        f"{locations} with {samples} sample{'s' if samples > 1 else ''}"
        for samples, locations in sorted(times)
    )


def _dates(times: np.ndarray) -> str:
    known = times[times != _NO_TIME]
    if not len(known):
        return "unknown"
    first, last = (
        datetime.datetime.fromtimestamp(int(t), datetime.UTC).date()
        for t in (known.min(), known.max())
    )
    return f"{first} to {last}" + (
        f"; {len(times) - len(known)} unknown" if len(known) < len(times) else ""
    )


def _extent(lonlat: np.ndarray) -> str:
    known = lonlat[np.isfinite(lonlat).all(1)]
    if not len(known):
        return "unknown"
    (west, south), (east, north) = known.min(0), known.max(0)
    unknown = f"; {len(lonlat) - len(known)} unknown" if len(known) < len(lonlat) else ""
    return f"longitude {west:.2f} to {east:.2f}, latitude {south:.2f} to {north:.2f}{unknown}"


def _left_out(manifest: Mapping[str, Any]) -> str:
    bad = [f"{manifest['rejects']['samples']} bad files"] if "rejects" in manifest else []
    return ", ".join([*bad, *filter(None, [_counted(manifest.get("left_out", {}))])]) or "nothing"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} ({text})" for text, count in counts.items())


# ------------------------------------------------------------------ tables


def split_rows(store: Store) -> Rows:
    """Samples and locations of each split."""
    index, rows = store.index, []
    for split, count in sorted(store.manifest["splits"].items()):
        locations = len(set(index["group"][index["split"] == split].tolist()))
        rows.append((split, f"{count:,}", f"{count / len(store):.1%}", f"{locations:,}"))
    return Rows("splits", ("split", "samples", "fraction", "locations"), rows)


def sensor_rows(store: Store) -> Rows:
    """Samples, bands and encoding of each sensor."""
    counts = Counter(store.index["sensor"].tolist())
    rows = []
    for sensor in sensors_of(store):
        nodata = "none" if sensor.nodata is None else f"{sensor.nodata:g}"
        rows.append(
            (
                sensor.id,
                f"{counts[sensor.id]:,}",
                bands(sensor),
                sensor.units,
                _encoding(sensor),
                nodata,
            )
        )
    return Rows("sensors", ("sensor", "samples", "bands", "units", "value", "no-data value"), rows)


def _encoding(sensor: Sensor) -> str:
    codes = set(zip(sensor.scales.tolist(), sensor.offsets.tolist(), strict=True))
    if len(codes) > 1:
        return "digital number x scale + offset of the band"
    ((scale, offset),) = codes
    return (
        "digital number"
        + (f" x {scale:.6g}" if scale != 1 else "")
        + (f" + {offset:g}" if offset else "")
    )


def label_rows(store: Store) -> list[Rows]:
    """One table per label: how often each class occurs, over all splits."""
    tables = []
    for name, about in store.about("labels").items():
        counts = {int(value): count for value, count in (about.get("values") or {}).items()}
        unit = "pixels" if about["shape"] == "map" else "times"
        total = max(sum(counts.values()), 1)
        names = {
            int(value): entry.get("name", "") for value, entry in about.get("classes", {}).items()
        }
        rows = [
            (
                f"{value} {names.get(value, '')}".rstrip(),
                f"{counts[value]:,}",
                f"{counts[value] / total:.1%}",
            )
            for value in sorted(counts)
        ]
        tables.append(
            Rows(
                f"label {name} ({about['dtype']})",
                ("value", unit, "fraction"),
                rows or [("fractions, or more than 256 values", "", "")],
            )
        )
    return tables


def statistics_rows(store: Store) -> list[Rows]:
    """One table per sensor, in physical units over the train split: one row per band, or per region
    of the spectrum where there are many bands.
    """
    tables = []
    for sensor_id, moments in store.manifest["statistics"].items():
        sensor = store.sensor(sensor_id)
        many = len(sensor.bands) > _MANY_BANDS
        tables.append(region_rows(sensor, moments) if many else band_rows(sensor, moments))
    return tables


def band_rows(sensor: Sensor, moments: Mapping[str, list]) -> Rows:
    """One row per band."""
    values, rows = physical(sensor, moments), []
    for b, band in enumerate(sensor.bands):
        nm = "" if band.centre_nm is None else f"{band.centre_nm:g}"
        cells = (_number(values[name][b]) for name in _MOMENTS[:4])
        rows.append((band.name, nm, *cells, f"{values['nodata_share'][b]:.2%}", band.units or ""))
    title, columns = (
        f"{sensor.id}, train split, {sensor.units}",
        ("band", "nm", "mean", "std", "min", "max", "no-data", "other units"),
    )
    if any(band.units for band in sensor.bands):
        return Rows(title, columns, rows)
    return Rows(title, columns[:-1], [row[:-1] for row in rows])


def region_rows(sensor: Sensor, moments: Mapping[str, list]) -> Rows:
    """One row per region of the spectrum; a single row where wavelengths are not known."""
    values, nm, rows = physical(sensor, moments), sensor.centres_nm, []
    regions = {name: (nm >= low) & (nm < high) for name, (low, high) in REGIONS.items()}
    if not np.isfinite(nm).all():
        regions = {"all": np.ones(len(nm), bool)}
    for region, inside in regions.items():
        if inside.any():
            rows.append((region, *_region_cells(values, inside)))
    return Rows(
        f"{sensor.id}, train split, {sensor.units}",
        ("region", "bands", "mean", "std", "min", "max", "no-data"),
        rows,
    )


def physical(sensor: Sensor, moments: Mapping[str, list]) -> dict[str, np.ndarray]:
    """Mean, std, min and max in physical units, and nodata_share, float64 [c]; NaN for a band
    without valid pixels.
    """
    values = {
        name: np.array(moments.get(name, [None] * len(sensor.bands)), float) for name in _MOMENTS
    }
    scaled = {
        name: values[name] * sensor.scales + sensor.offsets for name in ("mean", "min", "max")
    }
    return {**values, **scaled, "std": values["std"] * sensor.scales}


def _region_cells(values: Mapping[str, np.ndarray], inside: np.ndarray) -> tuple[str, ...]:
    known = inside & np.isfinite(values["mean"])
    cells = [str(inside.sum())]
    for name, sum_up in (("mean", np.mean), ("std", np.mean), ("min", np.min), ("max", np.max)):
        cells.append(_number(sum_up(values[name][known])) if known.any() else "-")
    return (*cells, f"{values['nodata_share'][inside].mean():.2%}")


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "-"
