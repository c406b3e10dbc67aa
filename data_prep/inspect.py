"""Shows what is in a store: tables on the terminal, samples in true colour, and the mean spectrum.

python -m data_prep inspect /data/stores/spectral_earth --output /tmp/look --samples 12

<output>/quicklook.png     evenly spaced samples in true colour, no-data hatched
<output>/spectra.png       mean spectrum of each sensor +- one standard deviation, train split
"""

from __future__ import annotations

import argparse
import datetime
import io
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from data_prep.statistics import raw_bytes
from eo_jax import pictures
from eo_jax.data import Store, open_store
from eo_jax.data.stores import write_atomically
from eo_jax.sensors import SENSORS, Sensor, get_sensor

# Borders in nm, as spectroscopy of vegetation and soil draws them.
REGIONS = {"visible": (400, 690), "red edge": (690, 780), "near infrared": (780, 1300), "SWIR 1": (1300, 1900), "SWIR 2": (1900, 2500)}
COLUMNS = 4
_NO_TIME = np.iinfo(np.int64).min


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep inspect`."""
    parser.description = __doc__
    parser.epilog = "example: python -m data_prep inspect /data/stores/spectral_earth --output /tmp/look"
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store; only read")
    parser.add_argument("--output", type=Path, default=Path("."), metavar="DIR", help="folder of the pictures (default: the current one)")
    parser.add_argument("--samples", type=int, default=12, metavar="N", help="samples in the quicklook (default: 12)")


def run(args: argparse.Namespace) -> int:
    """Runs the command. Raises StoreError, or OSError where the pictures cannot be written."""
    store = open_store(args.store)
    console = Console()
    for table in (overview(store), *label_tables(store), *sensor_tables(store)):
        console.print(table)
    args.output.mkdir(parents=True, exist_ok=True)
    written = {"quicklook.png": quicklook(store, max(1, args.samples))}
    if store.manifest["statistics"]:
        written["spectra.png"] = spectra(store)
    for name, data in written.items():
        write_atomically(args.output / name, data)
        print(args.output / name)
    return 0


# ------------------------------------------------------------------ tables


def overview(store: Store) -> Table:
    """Samples, places, dates, splits and sizes."""
    manifest, index = store.manifest, store.index
    stored, raw = sum(shard["bytes"] for shard in manifest["shards"]), raw_bytes(store)
    shapes = Counter(map(tuple, index["shape"].tolist())).most_common(3)
    rows = {
        "archive": f"{manifest['archive']['name']} (reader {manifest['archive']['reader']}, {manifest['archive']['files']} files)",
        "samples": f"{len(store)} ({', '.join(f'{name} {count}' for name, count in sorted(manifest['splits'].items()))})",
        "bands": "; ".join(_bands(get_sensor(sensor)) for sensor in manifest["sensors"]),
        "places": f"{manifest['groups']} ({_dates_a_place(index['group'])})",
        "dates": _dates(index["time"]),
        "position": _extent(index["lonlat"]),
        "shapes": ", ".join(f"{' x '.join(map(str, shape))} ({count})" for shape, count in shapes),
        "pixels": ", ".join(f"{dtype} ({count})" for dtype, count in Counter(index["dtype"].tolist()).most_common()),
        "no-data": f"{index['nodata_share'].mean():.3%} of all values; {(index['nodata_share'] > 0).sum()} samples have some",
        "size": f"{stored / 1e6:,.1f} MB in {len(manifest['shards'])} shards; raw pixels {raw / 1e6:,.1f} MB, ratio {raw / stored:.2f}",
        "left out": f"{manifest['rejects']['samples']} bad files" if "rejects" in manifest else "nothing",
        "content": store.content_hash[:16],
    }
    table = Table(title=f"store {store.path}", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _bands(sensor: Sensor) -> str:
    nm = sensor.centres_nm
    return f"{len(nm)}, {nm.min():.0f} to {nm.max():.0f} nm ({sensor.title})"


def _dates_a_place(groups: np.ndarray) -> str:
    times = Counter(Counter(groups.tolist()).values())
    return ", ".join(f"{places} with {dates} date{'s' if dates > 1 else ''}" for dates, places in sorted(times.items()))


def _dates(times: np.ndarray) -> str:
    known = times[times != _NO_TIME]
    if not len(known):
        return "unknown"
    first, last = (datetime.datetime.fromtimestamp(int(t), datetime.UTC).date() for t in (known.min(), known.max()))
    return f"{first} to {last}" + (f"; {len(times) - len(known)} unknown" if len(known) < len(times) else "")


def _extent(lonlat: np.ndarray) -> str:
    known = lonlat[np.isfinite(lonlat).all(1)]
    if not len(known):
        return "unknown"
    (west, south), (east, north) = known.min(0), known.max(0)
    return f"longitude {west:.2f} to {east:.2f}, latitude {south:.2f} to {north:.2f}"


def label_tables(store: Store) -> list[Table]:
    """One table a label: pixels of each class, over all splits."""
    tables = []
    for name, about in store.manifest["labels"].items():
        table = Table("value", "pixels", "share", title=f"label {name} ({about['dtype']})", title_justify="left")
        counts = about["values"] or {}
        for value, count in counts.items():
            table.add_row(value, f"{count:,}", f"{count / sum(counts.values()):.1%}")
        if not counts:
            table.add_row("more than 256 values", "", "")
        tables.append(table)
    return tables


def sensor_tables(store: Store) -> list[Table]:
    """One table a sensor: reflectance in each region of the spectrum, over the train split."""
    tables = []
    for sensor_id, moments in store.manifest["statistics"].items():
        sensor = get_sensor(sensor_id)
        nm, title = sensor.centres_nm, f"{sensor.id}, train split, {sensor.units}"
        columns = ("region", "bands", "mean", "std", "min", "max", "no-data")
        table = Table(*columns, title=title, title_justify="left")
        for region, (low, high) in REGIONS.items():
            inside = (nm >= low) & (nm < high)
            if inside.any():
                table.add_row(region, *_region_cells(moments, inside, sensor.scale))
        tables.append(table)
    return tables


def _region_cells(moments: dict, inside: np.ndarray, scale: float) -> list[str]:
    """Bands, mean, std, min, max and no-data share; None in the manifest, for a band without valid pixels, is left out."""
    values = {name: np.array(moments[name], float)[inside] for name in ("mean", "std", "min", "max", "nodata_share")}
    known = np.isfinite(values["mean"])
    cells = [str(inside.sum())]
    for name, summary in (("mean", np.mean), ("std", np.mean), ("min", np.min), ("max", np.max)):
        cells.append(f"{summary(values[name][known]) * scale:.3f}" if known.any() else "-")
    return [*cells, f"{values['nodata_share'].mean():.2%}"]


# ------------------------------------------------------------------ pictures


def quicklook(store: Store, count: int) -> bytes:
    """PNG of up to `count` samples, evenly spaced over the store, in true colour and on one stretch."""
    chosen = np.unique(np.linspace(0, len(store) - 1, count).round().astype(int)).tolist()
    samples = [store[i] for i in chosen]
    images, valid = zip(*(_true_colour(sample.pixels, get_sensor(sample.sensor)) for sample in samples), strict=True)
    limits = pictures.percentile_limits(images, valid)
    shown = [pictures.colour(image, (0, 1, 2), limits, mask) for image, mask in zip(images, valid, strict=True)]
    return pictures.contact_sheet(shown, [_short(sample.id) for sample in samples], min(COLUMNS, len(shown)))


def _true_colour(pixels: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
    """Red, green and blue [h, w, 3] in physical units, and where all three are valid [h, w]."""
    image = np.moveaxis(pixels[list(sensor.true_colour)], 0, -1)
    return image * np.float32(sensor.scale), (image != sensor.nodata).all(-1)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"...{name[3 - most :]}"


def spectra(store: Store) -> bytes:
    """PNG of the mean spectrum +- one standard deviation of each sensor, broken where the sensor has no bands."""
    found = store.manifest["statistics"]
    figure = Figure(figsize=(8, 4 * len(found)), layout="constrained")
    for place, (sensor_id, moments) in enumerate(found.items(), start=1):
        axes = figure.add_subplot(len(found), 1, place)
        _draw_spectrum(axes, SENSORS[sensor_id], np.array(moments["mean"], float), np.array(moments["std"], float))
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw_spectrum(axes, sensor: Sensor, mean: np.ndarray, std: np.ndarray) -> None:
    order = np.argsort(sensor.centres_nm, kind="stable")
    nm, mean, std = sensor.centres_nm[order], mean[order] * sensor.scale, std[order] * sensor.scale
    for run in np.split(np.arange(len(nm)), pictures.band_gaps(nm)):
        axes.fill_between(nm[run], mean[run] - std[run], mean[run] + std[run], color=pictures.BLUE, alpha=0.2, linewidth=0)
        axes.plot(nm[run], mean[run], color=pictures.BLUE)
    axes.set_title(f"{sensor.title}: mean and one standard deviation, train split", fontsize=10, loc="left")
    axes.set(xlabel="wavelength (nm)", ylabel=sensor.units)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
