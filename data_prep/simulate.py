"""Writes a synthetic archive in a published layout.

    python -m data_prep simulate --output /data/simulated --locations 48 --size 128 --seed 0
    python -m data_prep simulate --archive oscd --output /data/simulated_oscd --size 96

    <output>/simulate.json                     recipe, seed and size

The rest of the layout is that of the archive, see below: EnMAP patches with land-use maps as
SpectralEarth has them, or the sets of downstream tasks.

Each location has a land-use map and one to three acquisition dates. The archive is for learning the
tools and for tests, not for results about the Earth. A pixel is a linear mixture of the endmembers
in `data_prep.simulation.spectra`, lit according to the slope, blurred by the sensor and read with
noise. Land uses of the same materials in nearly the same fractions differ in arrangement only:
large and small cropland, orchard rows and wooded pasture, city and industry. At 30 m single orchard
rows are smaller than a pixel; the strips here are blocks of rows between alleys.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path

from data_prep.conversion import output_lock
from data_prep.jobs import executors, progress
from data_prep.simulation import layouts
from data_prep.simulation.acquisition import LOCATIONS_PER_REGION, SCENES_PER_REGION
from data_prep.simulation.files import write_text

RECIPE = 1  # raise it with every change that alters bytes, so that no archive mixes two recipes
MIN_SIZE = 16
# A scene number has five digits.
MAX_LOCATIONS = 99_999 // SCENES_PER_REGION * LOCATIONS_PER_REGION
DEFAULT = "spectral-earth"

_MARKER = "simulate.json"


def _check_arguments(
    output: Path, least: int, locations: int, size: int, seed: int, workers: int
) -> None:
    limits = {
        "--locations": (
            locations,
            least,
            MAX_LOCATIONS,
            "each split gets at least one location, and scene numbers have five digits",
        ),
        "--size": (size, MIN_SIZE, 4096, "rows and columns of a patch; SpectralEarth has 128"),
        "--seed": (seed, 0, 2**63, "any non-negative integer"),
        "--workers": (workers, 1, 4096, "processes; leave it out for one per core"),
    }
    for name, (value, least, most, why) in limits.items():
        if not least <= value <= most:
            raise ValueError(f"{name} {value}: expected {least} to {most} ({why})")
    if output.exists() and not output.is_dir():
        raise ValueError(
            f"--output {output} is a file; expected a new folder, or an archive of `simulate` to "
            "complete"
        )


def _write_or_check_marker(output: Path, settings: dict[str, int | str], last: int) -> None:
    """Writes the settings of the archive, or checks that an existing archive has the same.

    Args:
        last: number of the last location that is there.
    """
    marker = output / _MARKER
    if marker.exists():
        _check_marker(marker, settings)
        return
    if last >= 0:
        raise ValueError(
            f"{output} has locations but no {_MARKER}: expected an archive made by `simulate`. "
            "Give another --output."
        )
    try:
        write_text(marker, json.dumps(settings, indent=1) + "\n")
    except OSError as error:
        raise OSError(
            f"--output {output}: cannot be written ({error.strerror}); choose a folder that you "
            "may write to"
        ) from error


def _check_extends(output: Path, locations: int, last: int) -> None:
    """Raises ValueError where the archive has more than `locations` locations, because its splits
    would no longer list all files.
    """
    if last >= locations:
        raise ValueError(
            f"{output} has location {last:07d}: --locations {locations} found, {last + 1} or more "
            "expected"
        )


def _check_marker(marker: Path, settings: dict[str, int | str]) -> None:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{marker}: not JSON ({error}); remove the archive, or give another --output"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{marker}: found {found!r}, expected an object; remove the archive, or give another "
            "--output"
        )
    found.setdefault("archive", DEFAULT)
    for field, value in settings.items():
        if found.get(field) != value:
            raise ValueError(
                f"{marker}: {field} is {found.get(field)}, expected {value}. Use the same {field}, "
                "or give another --output."
            )


def simulate_archive(
    output: str | os.PathLike,
    locations: int = 48,
    size: int = 128,
    seed: int = 0,
    workers: int | None = None,
    archive: str = DEFAULT,
    advance: progress.Advance = lambda units, size: None,
) -> int:
    """Writes, or completes, a synthetic archive; returns the number of patches written.

    Args:
        output: folder of the archive.
        locations: number of locations. The files of a location depend on `seed`, its number and
            `size` alone, so a larger number extends an archive.
        size: rows and columns of a patch, pixels of 30 m.
        seed: non-negative.
        workers: processes; one per core by default.
        archive: name of a module of `data_prep.simulation.layouts`.
        advance: called with (1, bytes written) after each location; for showing progress.

    Raises:
        ValueError: an argument out of range, or `output` holds something else.
        OSError: `output` cannot be written.
    """
    output, workers = Path(output), executors.cores() if workers is None else workers
    layout = layouts.find(archive)
    _check_arguments(output, layout.LEAST, locations, size, seed, workers)
    last = layout.last_location(output)
    settings = {"archive": archive, "recipe": RECIPE, "seed": seed, "size": size}
    _write_or_check_marker(output, settings, last)
    _check_extends(output, locations, last)
    written = 0
    for patches, written_bytes in executors.run(
        functools.partial(layout.write_location, output, seed, size), range(locations), workers
    ):
        written += patches
        advance(1, written_bytes)
    layout.write_lists(output, seed, size, locations)  # last: every file it lists exists
    return written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep simulate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    known = "\n\n".join(f"--archive {n}:\n{layouts.find(n).__doc__}" for n in layouts.names())
    parser.description = f"{__doc__}\n{known}"
    parser.epilog = (
        "example: python -m data_prep simulate --output /tmp/simulated --locations 8 --size 64"
    )
    parser.add_argument(
        "--output",
        type=output_lock.local_folder,
        required=True,
        help="folder of the archive; a partial one is completed",
    )
    parser.add_argument(
        "--archive",
        default=DEFAULT,
        choices=layouts.names(),
        help=f"what is written (default: {DEFAULT})",
    )
    parser.add_argument(
        "--locations", type=int, default=48, help="number of locations (default: 48)"
    )
    parser.add_argument(
        "--size", type=int, default=128, help="rows and columns of a patch (default: 128)"
    )
    parser.add_argument("--seed", type=int, default=0, help="non-negative (default: 0)")
    parser.add_argument(
        "--workers", type=int, default=executors.cores(), help="processes (default: one per core)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status. Raises the errors of `simulate_archive`."""
    with progress.show("simulate", args.locations, "locations") as advance:
        written = simulate_archive(
            args.output,
            args.locations,
            args.size,
            args.seed,
            args.workers,
            args.archive,
            advance,
        )
    print(f"{args.output}: {written} patches written, {args.locations} locations complete")
    return 0
