"""Reads ENVI scenes (a header and a raw data file) by window.

Headers are untrusted: the sizes they claim must match the data file to the byte before anything is
read, and GDAL gets a header written here, in a temporary folder. Gzip-compressed data files (`file
compression = 1`) are unpacked within that size; GDAL itself would write a file next to them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import math
import re
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from data_prep.archive import ArchiveError
from data_prep.formats.band_identity import NM_PER_UNIT, nm_of_unknown_unit
from data_prep.formats.encoding import check_scale_of_bands
from data_prep.formats.gdal_errors import GDAL_ERRORS
from data_prep.formats.times import utc_seconds
from eo_jax.sensors import Sensor

MAX_HEADER_BYTES = 10_000_000
MAX_UNPACKED_BYTES = 64_000_000_000  # of a compressed data file, unpacked to a temporary file

_DTYPES = {
    1: "uint8",
    2: "int16",
    3: "int32",
    4: "float32",
    5: "float64",
    12: "uint16",
    13: "uint32",
}
_INTERLEAVES = ("bsq", "bil", "bip")
_UNIT_UNKNOWN = ("", "unknown")
# "band 1 (0.455400 Micrometers)", as ENVI and GDAL write it
_BAND_NAME_WAVELENGTH = re.compile(r".*\((\d+(?:\.\d+)?) (\w+)\)")
_GEOREFERENCE = ("map info", "projection info", "coordinate system string")
_CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class Header:
    """The checked contents of an ENVI header.

    Attributes:
        dtype: of the pixels, without byte order.
        skip: bytes before the pixels.
        wavelengths_nm: one per band, or None where there are none.
        widths_nm: `fwhm`, one per band; empty where there are none or their unit is not known.
        nm_per_unit: of the wavelengths as written.
        unit_known: whether the header gives their unit; if not, the one is assumed in which they
            are optical, which the comparison with a sensor table has to confirm.
        nodata: `data ignore value`.
        factor: `reflectance scale factor`.
        gains, offsets: `data gain values` and `data offset values`, one per band; empty where there
            are none.
        bad: positions from 0 of the bands that `bbl` excludes.
        names: `band names`; empty where there are none.
        time: `acquisition time`, seconds since 1970 UTC.
        fields: all fields as text, by lower-case names.
    """

    bands: int
    height: int
    width: int
    dtype: str
    skip: int
    big_endian: bool
    interleave: str
    compressed: bool
    wavelengths_nm: tuple[float, ...] | None
    widths_nm: tuple[float, ...]
    nm_per_unit: float
    unit_known: bool
    nodata: float | None
    factor: float | None
    gains: tuple[float, ...]
    offsets: tuple[float, ...]
    bad: tuple[int, ...]
    names: tuple[str, ...]
    time: int | None
    fields: tuple[tuple[str, str], ...]

    @property
    def file_bytes(self) -> int:
        """Size of the unpacked data file."""
        return self.skip + self.bands * self.height * self.width * np.dtype(self.dtype).itemsize


# ------------------------------------------------------------------ the header


def parse_header(name: str, data: bytes) -> Header:
    """The header in a .hdr file. Raises ArchiveError."""
    fields = _fields(name, _text(data))
    wrong = [key for key in _GEOREFERENCE if not fields.get(key, "").isascii()]
    if wrong:
        raise ArchiveError(name, f"{wrong[0]} has non-ASCII characters; correct the header")
    bands = _integer(name, fields, "bands", least=1)
    code = _integer(name, fields, "data type")
    interleave = fields.get("interleave", "").lower()
    if code not in _DTYPES:
        raise ArchiveError(
            name,
            f"data type is {code}, expected one of {', '.join(map(str, _DTYPES))}; write real "
            "numbers or integers",
        )
    if interleave not in _INTERLEAVES:
        raise ArchiveError(
            name,
            f"interleave is {interleave!r}, expected one of {', '.join(_INTERLEAVES)}; correct the "
            "header",
        )
    wavelengths_nm, nm_per_unit, unit_known = _wavelengths(name, fields, bands)
    return Header(
        bands=bands,
        height=_integer(name, fields, "lines", least=1),
        width=_integer(name, fields, "samples", least=1),
        dtype=_DTYPES[code],
        skip=_integer(name, fields, "header offset", default="0"),
        big_endian=_integer(name, fields, "byte order", default="0", most=1) == 1,
        interleave=interleave,
        compressed=_integer(name, fields, "file compression", default="0", most=1) == 1,
        wavelengths_nm=wavelengths_nm,
        widths_nm=_widths(name, fields, bands),
        nm_per_unit=nm_per_unit,
        unit_known=unit_known,
        nodata=_number(name, fields, "data ignore value"),
        factor=_number(name, fields, "reflectance scale factor"),
        gains=_numbers(name, fields, "data gain values", bands),
        offsets=_numbers(name, fields, "data offset values", bands),
        bad=_bad_bands(name, fields, bands),
        names=_names(name, fields, bands),
        time=_time(name, fields),
        fields=tuple(sorted(fields.items())),
    )


def _text(data: bytes) -> str:
    """The header as text: UTF-8 in newer files, else one byte per character."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _fields(name: str, text: str) -> dict[str, str]:
    """{lower-case name: value}; values in braces that span several lines are joined."""
    first, _, rest = text.partition("\n")
    if first.strip() != "ENVI":
        raise ArchiveError(
            name, "does not begin with ENVI; it is damaged or not an ENVI header: copy it again"
        )
    found, lines = dict[str, str](), iter(rest.splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith(";"):
            continue
        key, equals, value = line.partition("=")
        key, value = " ".join(key.lower().split()), value.strip()
        if not equals or not key or key in found:
            fault = f"a second {key}" if key in found else "not a field"
            raise ArchiveError(name, f"line {line.strip()[:60]!r} is {fault}; correct the header")
        found[key] = _braced(name, key, value, lines) if value.startswith("{") else value
    return found


def _braced(name: str, key: str, value: str, lines: Iterator[str]) -> str:
    """The value up to its closing brace, which may be several lines further down."""
    parts = [value]
    while "}" not in parts[-1]:
        more = next(lines, None)
        if more is None:
            raise ArchiveError(
                name, f"field {key!r} has no closing brace; the header is truncated: copy it again"
            )
        parts.append(more.strip())
    return " ".join(parts)


def _integer(
    name: str,
    fields: Mapping[str, str],
    key: str,
    default: str | None = None,
    least: int = 0,
    most: int = 2**40,
) -> int:
    text = fields.get(key, default)
    if text is None:
        raise ArchiveError(name, f"has no field {key!r}; correct the header")
    if not re.fullmatch(r"\d{1,13}", text) or not least <= int(text) <= most:
        raise ArchiveError(
            name,
            f"{key} is {text[:40]!r}, expected an integer from {least} to {most}; correct the "
            "header",
        )
    return int(text)


def _number(name: str, fields: Mapping[str, str], key: str) -> float | None:
    if key not in fields:
        return None
    try:
        return float(fields[key])
    except ValueError as error:
        raise ArchiveError(
            name, f"{key} is {fields[key][:40]!r}, expected a number; correct the header"
        ) from error


def _numbers(name: str, fields: Mapping[str, str], key: str, bands: int) -> tuple[float, ...]:
    """A list with one number per band, or nothing where there is no such field."""
    texts = _parse_list(fields.get(key, ""))
    if texts and len(texts) != bands:
        raise ArchiveError(
            name, f"{key} has {len(texts)} values for {bands} bands; correct the header"
        )
    try:
        return tuple(map(float, texts))
    except ValueError as error:
        raise ArchiveError(
            name, f"{key} has a value that is not a number ({error}); correct the header"
        ) from error


def _bad_bands(name: str, fields: Mapping[str, str], bands: int) -> tuple[int, ...]:
    values = _numbers(name, fields, "bbl", bands)
    if not set(values) <= {0.0, 1.0}:
        raise ArchiveError(
            name, "bbl has values other than 0 (bad) and 1 (good); correct the header"
        )
    return tuple(position for position, good in enumerate(values) if not good)


def _names(name: str, fields: Mapping[str, str], bands: int) -> tuple[str, ...]:
    names = _parse_list(fields.get("band names", ""))
    if names and len(names) != bands:
        raise ArchiveError(name, f"{len(names)} band names for {bands} bands; correct the header")
    return tuple(names)


def _time(name: str, fields: Mapping[str, str]) -> int | None:
    text = fields.get("acquisition time")
    if not text:
        return None
    try:
        return utc_seconds(text)
    except ValueError as error:
        raise ArchiveError(
            name,
            f"acquisition time is {text[:40]!r}, expected an ISO time such as "
            "2022-07-24T10:45:26Z; correct the header",
        ) from error


def class_table(header: Header) -> dict[int, dict[str, Any]]:
    """{class number: {"name", "colour"}} of the header of a class map."""
    fields = dict(header.fields)
    names = _parse_list(fields.get("class names", ""))
    texts = _parse_list(fields.get("class lookup", ""))
    table = {number: {"name": name} for number, name in enumerate(names) if name}
    if len(texts) == 3 * len(names) and all(text.isdigit() for text in texts):
        for number in table:
            table[number]["colour"] = list(map(int, texts[3 * number : 3 * number + 3]))
    return table


def _wavelengths(
    name: str, fields: Mapping[str, str], bands: int
) -> tuple[tuple[float, ...] | None, float, bool]:
    """(wavelengths in nm, nm per unit, whether the unit is known), from the field `wavelength`, or
    else from the names of all bands.
    """
    if "wavelength" in fields:
        texts, unit = _parse_list(fields["wavelength"]), fields.get("wavelength units", "").lower()
    else:
        names = _parse_list(fields.get("band names", ""))
        matches = [_BAND_NAME_WAVELENGTH.fullmatch(band) for band in names]
        units = {match[2].lower() for match in matches if match}
        if not matches or not all(matches) or len(units) > 1 or not units <= set(NM_PER_UNIT):
            return None, 1.0, False
        texts, unit = [match[1] for match in matches], units.pop()
    if len(texts) != bands:
        raise ArchiveError(name, f"{len(texts)} wavelengths for {bands} bands; correct the header")
    if unit not in (*NM_PER_UNIT, *_UNIT_UNKNOWN):
        raise ArchiveError(
            name,
            f"wavelength units is {unit!r}, expected Nanometers or Micrometers; correct the header",
        )
    try:
        values = tuple(map(float, texts))
        factor = NM_PER_UNIT.get(unit) or nm_of_unknown_unit(values)
        return tuple(value * factor for value in values), factor, unit in NM_PER_UNIT
    except ValueError as error:
        raise ArchiveError(
            name, f"wavelength has a value that is not a number ({error}); correct the header"
        ) from error


def _widths(name: str, fields: Mapping[str, str], bands: int) -> tuple[float, ...]:
    factor = NM_PER_UNIT.get(fields.get("wavelength units", "").lower())
    widths = _numbers(name, fields, "fwhm", bands)
    return tuple(width * factor for width in widths) if factor else ()


def _parse_list(text: str) -> list[str]:
    inner = text.strip().removeprefix("{").removesuffix("}").strip()
    return [part.strip() for part in inner.split(",")] if inner else []


# ------------------------------------------------------------------ the pixels


@contextlib.contextmanager
def open_envi(
    name: str, path: Path, stamp: int, header: Header
) -> Iterator[rasterio.DatasetReader]:
    """Opens the scene with GDAL. `stamp` distinguishes versions of the data file.

    GDAL errors become ArchiveError, which is also raised where the data file does not have the size
    that the header claims.
    """
    pair = _pair(name, path, stamp, header)
    # ENVI files come in pairs, so GDAL has to look for the second one; the folder has only these
    # two.
    options = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
        "GDAL_PAM_ENABLED": "NO",
        "GDAL_CACHEMAX": 128 * 2**20,
    }
    try:
        with rasterio.Env(**options), rasterio.open(pair.data, driver="ENVI") as dataset:
            yield dataset
    except GDAL_ERRORS as error:
        raise ArchiveError(
            name,
            f"cannot be read as ENVI ({error.__cause__ or error}); it is damaged: copy it again",
        ) from error


@functools.lru_cache(1)  # kept for the next tile of the scene
def _pair(name: str, path: Path, stamp: int, header: Header) -> _Pair:
    return _Pair(name, path, header)


class _Pair:
    """Header and data in a temporary folder, which is removed with the last reference to it."""

    def __init__(self, name: str, path: Path, header: Header):
        folder = Path(tempfile.mkdtemp(prefix="data_prep_"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.data = folder / "scene"
        if header.compressed:
            _unpack(name, path, self.data, header.file_bytes)
        else:
            self.data.symlink_to(path.resolve())
        found = self.data.stat().st_size
        if found != header.file_bytes:
            raise ArchiveError(
                name,
                f"has {found} bytes, but its header needs {header.file_bytes} "
                f"({_describe(header)}); copy both again",
            )
        (folder / "scene.hdr").write_text(_header_text(header), encoding="ascii")


def _unpack(name: str, source: Path, target: Path, size: int) -> None:
    """Unpacks at most one byte more than `size`, which suffices to detect a wrong size."""
    if size > MAX_UNPACKED_BYTES:
        raise ArchiveError(
            name,
            f"its header claims {size / 1e6:,.0f} MB, at most {MAX_UNPACKED_BYTES / 1e6:,.0f} MB; "
            "unpack it with gunzip first, or cut the scene",
        )
    try:
        with gzip.open(source) as packed, open(target, "wb") as file:
            left = size + 1
            while left and (chunk := packed.read(min(left, _CHUNK))):
                file.write(chunk)
                left -= len(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(
            name,
            f"cannot be unpacked as gzip ({error}); it is truncated or damaged: copy it again; or "
            "the disk of TMPDIR is full: free space there",
        ) from error


def _describe(header: Header) -> str:
    return (
        f"{header.bands} bands of {header.height} x {header.width} {header.dtype}, after "
        f"{header.skip}"
    )


def _header_text(header: Header) -> str:
    """A header with the fields that GDAL needs, and none that refers to other files."""
    codes = {dtype: code for code, dtype in _DTYPES.items()}
    fields = {
        "samples": header.width,
        "lines": header.height,
        "bands": header.bands,
        "header offset": header.skip,
        "file type": "ENVI Standard",
        "data type": codes[header.dtype],
        "interleave": header.interleave,
        "byte order": int(header.big_endian),
        **{key: value for key, value in header.fields if key in _GEOREFERENCE},
    }
    return "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())


def check_scale(name: str, header: Header, sensor: Sensor) -> None:
    """Raises ArchiveError where the header's no-data value, gains, offsets or scale differ from the
    sensor table's. NaN and infinity are never data, so they need no row.
    """
    nodata = header.nodata
    if nodata is not None and math.isfinite(nodata) and nodata != sensor.nodata:
        raise ArchiveError(
            name,
            f"data ignore value is {nodata:g}, but the sensor table has {sensor.nodata}; give a "
            "--sensor with this no-data value",
        )
    if header.factor is not None and not math.isclose(
        header.factor, 1 / sensor.scale, rel_tol=1e-6
    ):
        raise ArchiveError(
            name,
            f"reflectance scale factor is {header.factor:g}, but the sensor table has "
            f"{1 / sensor.scale:g}; give a --sensor with this scale",
        )
    for key, values, neutral, expected in (
        ("data gain value", header.gains, 1.0, sensor.scales),
        ("data offset value", header.offsets, 0.0, sensor.offsets),
    ):
        check_scale_of_bands(name, key, neutral, values or [neutral], expected, sensor)
