"""Lays out what is in a store as a single HTML page that loads nothing from elsewhere and runs no
script.
"""

from __future__ import annotations

import base64
import datetime
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data_prep.inspection import figures, summary
from data_prep.inspection.figures import SamplePicture
from data_prep.inspection.summary import Rows
from eo_jax.data import Store
from eo_jax.report import pictures
from eo_jax.report.style import PAGE, STYLE
from eo_jax.sensors import Sensor

_NUMBER = re.compile(r"[-\d,.e+%]+|")
_NO_TIME = np.iinfo(np.int64).min
_MORE_STYLE = """
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 0.8rem; margin: 0.5rem 0 1.5rem; }
.sheet figcaption { overflow-wrap: anywhere; }
figure.wide svg { max-width: 58rem; }
.tables { display: flex; flex-wrap: wrap; gap: 1.2rem 2.5rem; align-items: flex-start; }
.tables section { margin: 0; }
.number { text-align: right; }
"""
# What the manifest says beside the tables: hashes and versions.
_HASHES = ("content_sha256", "index_sha256", "store_format", "record_format", "format")


def render(store: Store, count: int) -> str:
    """The page of a store, with pictures of up to `count` samples: the same text for the same
    store.
    """
    sections = {
        "Overview": _pairs(summary.overview(store)),
        "Samples": _samples(store, count),
        "Spectra": _figure(
            figures.draw_spectra(store),
            "Mean and standard deviation of every band",
            "There is no sample in the train split.",
        ),
        "Locations": _figure(
            figures.draw_map(store),
            "Longitude and latitude of every location, by split",
            "No sample says where it is.",
        ),
        "Dates": _figure(
            figures.draw_dates(store), "Samples over time", "No sample says when it was taken."
        ),
        "Sensors, splits and labels": _tables(
            [summary.sensor_rows(store), summary.split_rows(store), *summary.label_rows(store)]
        ),
        "Statistics": _statistics(store),
        "Provenance": _provenance(store),
    }
    body = "".join(
        f"<section><h2>{title}</h2>{content}</section>" for title, content in sections.items()
    )
    archive = store.manifest["archive"]
    title = _text(f"{archive['name']}: {len(store):,} samples")
    header = f'<h1>{title}</h1><p class="lead">{_text(_lead(store))}</p>'
    return PAGE.format(title=title, style=STYLE + _MORE_STYLE, header=header, body=body)


def _lead(store: Store) -> str:
    sensors = "; ".join(sensor.title for sensor in summary.sensors_of(store))
    return (
        f"{store.manifest['groups']:,} locations · {sensors} · licence: "
        f"{store.manifest['archive'].get('licence', 'not stated')}"
    )


# ------------------------------------------------------------------ samples and figures


def _samples(store: Store, count: int) -> str:
    sheets = [
        _sheet(store, store.sensor(name), shown)
        for name, shown in figures.examples(store, count).items()
    ]
    return "".join(sheets) or _nothing("The store has no samples.")


def _sheet(store: Store, sensor: Sensor, shown: Sequence[SamplePicture]) -> str:
    about = (
        f"{figures.composite(sensor).caption}; one stretch for all, from the 2nd to the 98th "
        "percentile; no-data striped"
    )
    cells = "".join(_cell(store, picture) for picture in shown)
    return (
        f'<article><h3>{_text(sensor.title)}</h3><p class="caption">{_text(about)}</p><div '
        f'class="sheet">{cells}</div></article>'
    )


def _cell(store: Store, shown: SamplePicture) -> str:
    name = str(store.index["id"][shown.number])
    data = base64.b64encode(pictures.png(shown.rgb)).decode()
    image = (
        f'<img class="patch" alt="{_text(f"Sample {name}")}" src="data:image/png;base64,{data}">'
    )
    return f"<figure>{image}<figcaption>{_text(name)}<br>{_text(_facts(store, shown.number))}</figcaption></figure>"


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


def _figure(figure: Figure | None, label: str, otherwise: str) -> str:
    return (
        _nothing(otherwise)
        if figure is None
        else f'<figure class="wide">{figures.figure_svg(figure, label)}</figure>'
    )


# ------------------------------------------------------------------ tables


def _tables(tables: Sequence[Rows]) -> str:
    return f'<div class="tables">{"".join(f"<section><h3>{_text(rows.title)}</h3>{_table(rows)}</section>" for rows in tables)}</div>'


def _table(rows: Rows) -> str:
    """Columns of numbers to the right."""
    kinds = [
        "number" if all(map(_NUMBER.fullmatch, column)) else "words"
        for column in zip(*rows.rows, strict=True)
    ]
    head = "".join(
        f'<th scope="col" class="{kind}">{_text(name)}</th>'
        for name, kind in zip(rows.columns, kinds, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_data, row, kinds))}</tr>" for row in rows.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _data(text: str, kind: str) -> str:
    return f'<td class="{kind}">{_text(text)}</td>'


def _statistics(store: Store) -> str:
    tables = []
    for name, moments in store.manifest["statistics"].items():
        rows = summary.band_rows(store.sensor(name), moments)
        tables.append(
            f"<details{' open' if len(rows.rows) <= 20 else ''}><summary>{_text(rows.title)}</summary>{_table(rows)}</details>"
        )
    return "".join(tables) or _nothing("There is no sample in the train split.")


def _provenance(store: Store) -> str:
    manifest = store.manifest
    facts = {name: manifest[name] for name in _HASHES if name in manifest}
    return _pairs(
        {
            "archive": manifest["archive"],
            "left out": manifest.get("left_out", {}),
            "rejects": manifest.get("rejects", {}),
            "store": facts,
        }
    )


def _pairs(mapping: Mapping[str, Any]) -> str:
    """A table of names and values, in which what is nested folds away."""
    return f'<table class="pairs">{"".join(_pair(str(key), value) for key, value in mapping.items())}</table>'


def _pair(key: str, value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "".join(_pair(f"{key} {number}", one) for number, one in enumerate(value, start=1))
    if isinstance(value, Mapping) and value:
        return (
            '<tr><td colspan="2"><details '
            f"open><summary>{_text(key)}</summary>{_pairs(value)}</details></td></tr>"
        )
    return f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>"


def _text(value: Any) -> str:
    """Any plain value as escaped text, a dash for nothing."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return html.escape("–" if value is None or value in ("", {}) else str(value))


def _nothing(why: str) -> str:
    return f'<p class="nothing">{_text(why)}</p>'
