"""Writes a synthetic EnMAP archive in the SpectralEarth layout.

    python -m data_prep simulate --output /data/simulated --locations 48 --size 128 --seed 0

    <output>/simulate.json                     recipe, seed and size
    <output>/enmap/<location>/<scene>.tif      int16 [202, size, size], reflectance x 10000
    <output>/landuse/<location>/<scene>.tif    uint8 [size, size], 0 = unlabelled
    <output>/landuse/classes.csv               code,name
    <output>/splits/train.txt, val.txt         one <location>/<scene>.tif per line, all dates of a
                                               location in one split

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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import threadpoolctl
from rasterio.crs import CRS
from rasterio.transform import Affine

from data_prep.conversion import output_lock
from data_prep.jobs import executors, progress
from data_prep.simulation.acquisition import (
    GROUND,
    LOCATIONS_PER_REGION,
    SCENES_PER_REGION,
    SPLIT,
    Location,
    Scene,
    make_location,
    observe,
    stream,
)
from data_prep.simulation.landscape import CLASSES, make_landscape
from eo_jax.sensors import ENMAP

RECIPE = 1  # raise it with every change that alters bytes, so that no archive mixes two recipes
MIN_SIZE = 16
# A scene number has five digits.
MAX_LOCATIONS = 99_999 // SCENES_PER_REGION * LOCATIONS_PER_REGION
VAL_EVERY = 5  # one in this many locations is for validation

_MARKER = "simulate.json"

_FWHM = [band.fwhm_nm for band in ENMAP.bands]


def _replace_with(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary file next to `path`, then moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


def _write_text(path: Path, text: str) -> None:
    _replace_with(path, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))


def _profile(location: Location, count: int, size: int) -> dict:
    west, north = location.corner
    return {
        "driver": "GTiff",
        "count": count,
        "height": size,
        "width": size,
        "crs": CRS.from_epsg(location.region.epsg),
        "transform": Affine(30, 0, west, 0, -30, north),
        "compress": "deflate",
        "zlevel": 1,  # higher levels take three times as long for 3 % less
        "blockysize": size,
        "interleave": "band",
    }


def _write_pixels(path: Path, pixels: np.ndarray, location: Location, scene: Scene) -> None:
    profile = _profile(location, len(pixels), pixels.shape[-1]) | {
        "dtype": "int16",
        "predictor": 2,
        "nodata": ENMAP.nodata,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        file.scales = (ENMAP.scale,) * len(pixels)
        file.update_tags(start_time=scene.time.isoformat())
        for band, (nm, fwhm) in enumerate(zip(scene.wavelengths_nm, _FWHM, strict=True), start=1):
            file.update_tags(
                band, wavelength=f"{nm:.3f}", fwhm=f"{fwhm:.2f}", wavelength_units="Nanometers"
            )


def _write_labels(path: Path, labels: np.ndarray, location: Location) -> None:
    with rasterio.open(
        path, "w", **_profile(location, 1, len(labels)), dtype="uint8", nodata=0
    ) as file:
        file.write(labels, 1)


def write_location(output: Path, seed: int, size: int, index: int) -> tuple[int, int]:
    """Writes the missing dates of a location; returns their number and the bytes of their images.

    Finished files are left alone.
    """
    location = make_location(seed, index, size)
    folders = output / "enmap" / location.name, output / "landuse" / location.name
    targets = [
        (scene, *(folder / f"{scene.name}.tif" for folder in folders)) for scene in location.scenes
    ]
    absent = [target for target in targets if not (target[1].exists() and target[2].exists())]
    if not absent:
        return 0, 0
    land = make_landscape(stream(seed, GROUND, index), size)
    for scene, image, label in absent:
        # One core per worker, and sums that do not depend on the number of cores.
        with threadpoolctl.threadpool_limits(1):
            pixels, labels = observe(seed, location, scene, land)
        _replace_with(
            image, functools.partial(_write_pixels, pixels=pixels, location=location, scene=scene)
        )
        _replace_with(label, functools.partial(_write_labels, labels=labels, location=location))
    return len(absent), sum(image.stat().st_size for _, image, _ in absent)


def is_validation(seed: int, index: int) -> bool:
    """Whether a location is for validation.

    One in every VAL_EVERY is, however many locations there are, and exactly one of the first two.
    """
    block, position = divmod(index, VAL_EVERY)
    return position == stream(seed, SPLIT, block).integers(2 if block == 0 else VAL_EVERY)


def _write_splits(output: Path, seed: int, size: int, locations: int) -> None:
    lines: dict[bool, list[str]] = {False: [], True: []}
    for index in range(locations):
        location = make_location(seed, index, size)
        lines[is_validation(seed, index)] += [
            f"{location.name}/{scene.name}.tif\n" for scene in location.scenes
        ]
    _write_text(output / "splits" / "train.txt", "".join(lines[False]))
    _write_text(output / "splits" / "val.txt", "".join(lines[True]))


def _write_classes(output: Path) -> None:
    rows = [f"{code},{name}\n" for code, name in CLASSES.items()]
    _write_text(output / "landuse" / "classes.csv", "code,name\n" + "".join(rows))


def _check_arguments(output: Path, locations: int, size: int, seed: int, workers: int) -> None:
    limits = {
        "--locations": (
            locations,
            2,
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


def _write_or_check_marker(output: Path, settings: dict[str, int]) -> None:
    """Writes the settings of the archive, or checks that an existing archive has the same."""
    marker = output / _MARKER
    if marker.exists():
        _check_marker(marker, settings)
        return
    if (output / "enmap").exists():
        raise ValueError(
            f"{output} has enmap/ but no {_MARKER}: expected an archive made by `simulate`. Give "
            "another --output."
        )
    try:
        _write_text(marker, json.dumps(settings, indent=1) + "\n")
    except OSError as error:
        raise OSError(
            f"--output {output}: cannot be written ({error.strerror}); choose a folder that you "
            "may write to"
        ) from error


def _check_extends(output: Path, locations: int) -> None:
    """Raises ValueError where the archive has more than `locations` locations, because its splits
    would no longer list all files.
    """
    last = max((folder.name for folder in output.glob("enmap/[0-9]*")), default="")
    if last >= f"{locations:07d}":
        raise ValueError(
            f"{output} has location {last}: --locations {locations} found, {int(last) + 1} or more "
            "expected"
        )


def _check_marker(marker: Path, settings: dict[str, int]) -> None:
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
        advance: called with (1, bytes written) after each location; for showing progress.

    Raises:
        ValueError: an argument out of range, or `output` holds something else.
        OSError: `output` cannot be written.
    """
    output, workers = Path(output), executors.cores() if workers is None else workers
    _check_arguments(output, locations, size, seed, workers)
    _write_or_check_marker(output, {"recipe": RECIPE, "seed": seed, "size": size})
    _check_extends(output, locations)
    written = 0
    for patches, written_bytes in executors.run(
        functools.partial(write_location, output, seed, size), range(locations), workers
    ):
        written += patches
        advance(1, written_bytes)
    _write_classes(output)
    _write_splits(output, seed, size, locations)  # last, so that every file it lists exists
    return written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep simulate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
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
            args.output, args.locations, args.size, args.seed, args.workers, advance
        )
    print(f"{args.output}: {written} patches written, {args.locations} locations complete")
    return 0
