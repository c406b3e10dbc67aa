"""Shows the contents of a store: tables, and a page with samples, labels, spectra and a map.

    python -m data_prep inspect stores/spectral_earth
    python -m data_prep inspect stores/spectral_earth --output /tmp/look --samples 24
    python -m data_prep inspect stores/spectral_earth --output /tmp/look --pictures

<output>/inspect.html      all of it on one page in one file, which loads nothing
<output>/quicklook.png     with --pictures, instead of the page: evenly spaced samples of every
                           sensor, no-data hatched
<output>/spectra.png       and the mean of every band +- one standard deviation, train split

The output is the folder of the store itself unless --output names another. The files of the store
are only read, and verify does not mind the page beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_prep.inspection import figures, page, samples, summary
from data_prep.inspection.summary import Rows
from eo_jax.data import Store, open_store
from eo_jax.data.store.files import write_atomically
from eo_jax.report import pictures

COLUMNS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep inspect`."""
    parser.description = __doc__
    parser.epilog = "example: python -m data_prep inspect stores/spectral_earth"
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder to write to (default: that of the store)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=12,
        metavar="N",
        help="samples in the pictures, split evenly among the sensors (default: 12)",
    )
    parser.add_argument(
        "--pictures", action="store_true", help="write two PNG files instead of the page"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command. Raises StoreError, RecordError, or OSError where the files cannot be
    written.
    """
    store = open_store(args.store)
    _print_tables(store)
    count = max(1, args.samples)
    made = (
        images(store, count)
        if args.pictures
        else {"inspect.html": page.render(store, count).encode()}
    )
    _write(args.output or args.store, made)
    return 0


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files and prints their paths. Raises OSError with the way out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
            print(folder / name)
    except OSError as error:
        raise OSError(
            f"{folder}: {', '.join(files)} cannot be written there ({error.strerror or error}); "
            "name a folder that can be written to: --output DIR"
        ) from error


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
    shown = [picture for group in samples.examples(store, count).values() for picture in group]
    titles = [_short(str(store.index["id"][picture.number])) for picture in shown]
    return pictures.contact_sheet(
        [picture.rgb for picture in shown], titles, min(COLUMNS, len(shown))
    )


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else f"...{name[3 - limit :]}"
