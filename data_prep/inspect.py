"""Shows the contents of a store: tables, and pictures of samples, spectra, locations and dates.

    python -m data_prep inspect stores/spectral_earth --output /tmp/inspect --samples 12
    python -m data_prep inspect stores/spectral_earth --output /tmp/inspect --html

<output>/quicklook.png     evenly spaced samples of every sensor, no-data hatched
<output>/spectra.png       mean of every band +- one standard deviation, train split
<output>/inspect.html      with --html, instead of both pictures: all of it on one page in one file
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_prep.inspection import figures, page, summary
from data_prep.inspection.summary import Rows
from eo_jax.data import Store, open_store
from eo_jax.data.store.files import write_atomically
from eo_jax.report import pictures

COLUMNS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep inspect`."""
    parser.description = __doc__
    parser.epilog = (
        "example: python -m data_prep inspect stores/spectral_earth --output /tmp/inspect --html"
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store; only read")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("."),
        metavar="DIR",
        help="folder to write to (default: the current one)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=12,
        metavar="N",
        help="samples in the pictures, split evenly among the sensors (default: 12)",
    )
    parser.add_argument(
        "--html", action="store_true", help="write one HTML page instead of two pictures"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command. Raises StoreError, RecordError, or OSError where the files cannot be
    written.
    """
    store = open_store(args.store)
    _print_tables(store)
    count = max(1, args.samples)
    written = (
        {"inspect.html": page.render(store, count).encode()} if args.html else images(store, count)
    )
    args.output.mkdir(parents=True, exist_ok=True)
    for name, data in written.items():
        write_atomically(args.output / name, data)
        print(args.output / name)
    return 0


def _print_tables(store: Store) -> None:
    console = Console()
    table = Table(title=f"store {store.path}", show_header=False, title_justify="left")
    for name, value in summary.overview(store).items():
        table.add_row(name, value)
    console.print(table)
    for rows in (*summary.label_rows(store), *summary.statistics_rows(store)):
        console.print(_table(rows))


def _table(rows: Rows) -> Table:
    table = Table(*rows.columns, title=rows.title, title_justify="left")
    for row in rows.rows:
        table.add_row(*row)
    return table


def images(store: Store, count: int) -> dict[str, bytes]:
    """{file name: PNG}, without samples or statistics that the store lacks."""
    drawn = {"quicklook.png": quicklook(store, count)} if len(store) else {}
    spectra = figures.draw_spectra(store)
    return {**drawn, "spectra.png": figures.figure_png(spectra)} if spectra else drawn


def quicklook(store: Store, count: int) -> bytes:
    """PNG of up to `count` samples, sensor after sensor."""
    samples = [picture for group in figures.examples(store, count).values() for picture in group]
    titles = [_short(str(store.index["id"][picture.number])) for picture in samples]
    return pictures.contact_sheet(
        [picture.rgb for picture in samples], titles, min(COLUMNS, len(samples))
    )


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else f"...{name[3 - limit :]}"
