"""Shows or writes the sensor row that a file describes: bands, dtype, no-data, wavelengths, widths.

    python -m data_prep sensor --from scene.hdr
    python -m data_prep sensor --from scene.mat --output scene_bands.json

FILE is an ENVI header, a GeoTIFF, a MATLAB file (with `wl`, `wavelength` or `wavelengths` beside
the cube), or HDF5 or NetCDF (with a list of that name), EMIT and PRISMA among them. The row says
what the file says and nothing else: without a scale, the units are "digital number", and without
wavelengths, bands have numbers only. Look at it before you use it, and correct it: title, units and
scale are rarely in a file. `convert hsi-scene` and `convert geotiff` take it as --sensor.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from data_prep.archive import ArchiveError, open_archive
from data_prep.formats import hdf5_rows, remarks
from data_prep.formats.hsi_files import open_scene, scene_files
from data_prep.reader import Files, Item
from data_prep.readers import prisma
from eo_jax.data.store.files import write_atomically
from eo_jax.sensors import Sensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep sensor`."""
    parser.description = __doc__
    parser.epilog = "example: python -m data_prep sensor --from scene.hdr --output bands.json"
    parser.add_argument(
        "--from",
        dest="file",
        type=Path,
        required=True,
        metavar="FILE",
        help="file of the scene; only read",
    )
    parser.add_argument(
        "--output", type=Path, metavar="ROW.json", help="file to write (default: print the row)"
    )
    parser.add_argument(
        "--variable",
        default="",
        metavar="NAME",
        help="the image in a file with several, such as paviaU or /HDFEOS/SWATHS/X/Cube",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command. Raises ArchiveError, or OSError where the file cannot be written."""
    if args.output and args.output.suffix != ".json":
        raise ValueError(f"--output {args.output}: a row ends in .json, or it is taken for an id")
    with remarks.collect() as found:
        try:
            sensor = read_row(args.file, args.variable)
        except ArchiveError as error:
            raise ArchiveError(str(args.file.parent / error.name), error.reason) from error
    text = json.dumps(sensor.row(), indent=1, ensure_ascii=False)
    if args.output:
        write_atomically(args.output, f"{text}\n".encode())
    else:
        print(text)
    for note in (*sorted(found.texts), *_summary(sensor)):
        print(f"note: {note}", file=sys.stderr)
    return 0


def read_row(path: Path, variable: str) -> Sensor:
    """The row that a file describes. Raises ArchiveError."""
    if prisma.is_product(path.name):
        return prisma.read_row(open_archive(path.parent), path.name)
    if path.suffix.lower() in hdf5_rows.SUFFIXES:
        return hdf5_rows.read_row(path.name, path, variable)
    archive = open_archive(path.parent)
    files = Files(archive, Item("", "", scene_files(archive, "image", path.name)))
    with open_scene(archive, files, "image", 3, variable) as scene:
        return scene.row()


def _summary(sensor: Sensor) -> list[str]:
    bands = sensor.bands
    with_nm = sum(band.centre_nm is not None for band in bands)
    bad = [band.name for band in bands if band.bad]
    return [
        f"{len(bands)} bands, {with_nm} of them with a wavelength, {sensor.dtype}, "
        f"{'no no-data value' if sensor.nodata is None else f'no-data {sensor.nodata:g}'}, "
        f"{sensor.units} = digital number x {sensor.scale:g} + {sensor.offset:g}",
        *([f"bad bands: {', '.join(bad)}"] if bad else []),
    ]
