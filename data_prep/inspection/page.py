"""The page of a store: a single HTML file that loads nothing and runs no script."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from data_prep.inspection import figures, locations, samples, summary
from data_prep.inspection.samples import SamplePicture
from data_prep.inspection.summary import Rows
from eo_jax.data import Store
from eo_jax.report import class_maps, html_page, pictures
from eo_jax.report.html_page import Row

_NUMBER = re.compile(r"[-\d,.e+%]+|")
_NO_TIME = np.iinfo(np.int64).min
# Fields of the manifest that no table shows: hashes and versions.
_HASHES = ("content_sha256", "index_sha256", "store_format", "record_format", "format")


def render(store: Store, count: int) -> str:
    """The page of a store, with pictures of up to `count` samples: the same text for the same
    store.
    """
    title = store.about("archive").get("name")
    tables = [summary.sensor_rows(store), summary.split_rows(store), *summary.label_rows(store)]
    return html_page.render(
        "data_prep.inspection",
        "inspect.html",
        title=f"{title}: {len(store):,} samples",
        lead=_lead(store),
        overview=_pairs(summary.overview(store)),
        sheets=_sheets(store, count),
        legends=_legends(store),
        spectra=_svg(figures.draw_spectra(store), "Mean and standard deviation of every band"),
        locations=_svg(
            locations.draw_map(store), "Longitude and latitude of every location, by split"
        ),
        dates=_svg(figures.draw_dates(store), "Samples over time"),
        tables=[_table(rows) for rows in tables],
        statistics=[
            _table(summary.band_rows(store.sensor(name), moments))
            for name, moments in store.manifest["statistics"].items()
        ],
        provenance=_pairs(_provenance(store.manifest)),
    )


def _lead(store: Store) -> str:
    sensors = "; ".join(sensor.title for sensor in summary.sensors_of(store))
    licence = store.manifest["archive"].get("licence", "not stated")
    return f"{store.manifest['groups']:,} locations · {sensors} · licence: {licence}"


def _svg(figure: Figure | None, label: str) -> Markup | None:
    return None if figure is None else pictures.svg(figure, label)


# ------------------------------------------------------------------ samples


def _sheets(store: Store, count: int) -> list[dict[str, Any]]:
    return [
        {
            "title": store.sensor(name).title,
            "caption": samples.composite_of(store, store.sensor(name)).caption,
            "maps": any(picture.maps for picture in shown),
            "samples": [_sample(store, picture) for picture in shown],
        }
        for name, shown in samples.examples(store, count).items()
    ]


def _sample(store: Store, picture: SamplePicture) -> dict[str, Any]:
    name = str(store.index["id"][picture.number])
    return {
        "name": name,
        "pictures": [
            _picture(f"Sample {name}", "", picture.rgb),
            *(
                _picture(f"Label {one.name} of {name}", f"{one.name} {one.note}".strip(), one.rgb)
                for one in picture.maps
            ),
        ],
        "facts": _facts(store, picture.number),
        "labels": picture.labels,
    }


def _picture(alt: str, caption: str, rgb: np.ndarray) -> dict[str, str]:
    return {"alt": alt, "caption": caption, "source": html_page.data_uri(pictures.png(rgb))}


def _legends(store: Store) -> list[tuple[str, list[class_maps.Entry]]]:
    """(label, lines of its legend) of the labels that are drawn as maps of classes."""
    labels = store.about("labels")
    return [
        (name, class_maps.legend(palette, class_maps.names_of(labels[name])))
        for name, palette in samples.label_colours(store).items()
        if palette and labels[name]["shape"] == "map"
    ]


def _facts(store: Store, i: int) -> str:
    row = {name: column[i] for name, column in store.index.items()}
    facts = [str(row["split"]), " x ".join(map(str, row["shape"][1:].tolist()))]
    if row["time"] != _NO_TIME:
        facts.append(str(datetime.datetime.fromtimestamp(int(row["time"]), datetime.UTC).date()))
    if np.isfinite(row["lonlat"]).all():
        facts.append("{:.3f}, {:.3f}".format(*row["lonlat"].tolist()))
    if row["nodata_share"]:
        facts.append(f"{row['nodata_share']:.1%} no-data")
    return " · ".join(facts)


# ------------------------------------------------------------------ tables


def _table(rows: Rows) -> dict[str, Any]:
    """Title, and header and rows of (alignment, text): columns of numbers to the right."""
    kinds = [
        "number" if all(map(_NUMBER.fullmatch, column)) else "words"
        for column in zip(*rows.rows, strict=True)
    ]
    return {
        "title": rows.title,
        "header": list(zip(kinds, rows.columns, strict=True)),
        "rows": [list(zip(kinds, map(_text, row), strict=True)) for row in rows.rows],
    }


def _provenance(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "archive": manifest["archive"],
        "left out": manifest.get("left_out", {}),
        "rejects": manifest.get("rejects", {}),
        "store": {name: manifest[name] for name in _HASHES if name in manifest},
    }


def _pairs(mapping: Mapping[str, Any]) -> list[Row]:
    return [row for key, value in mapping.items() for row in _pair(str(key), value)]


def _pair(key: str, value: Any) -> list[Row]:
    """One row; a list of mappings gives a row for each."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        numbered = enumerate(value, start=1)
        return [row for number, one in numbered for row in _pair(f"{key} {number}", one)]
    if isinstance(value, Mapping) and value:
        return [(key, _pairs(value))]
    return [(key, _text(value))]


def _text(value: Any) -> str:
    """Lists comma-separated, a dash for nothing."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "–" if value is None or value in ("", {}) else str(value)
