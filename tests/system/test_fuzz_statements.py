"""Images with random statements about themselves, in tags, sidecars and headers: some agree with
the row of the sensor table, some contradict it.

Each image gives the data that GDAL sees, with its mask, or a refusal that names file and field;
one that contradicts the row is always refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from layouts import make_reader

from data_prep.archive import ArchiveError
from data_prep.reader import Files, with_sidecars
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor

SIDE = 6
NAMES, NM = ("B2", "B3", "B4", "B8"), (490.0, 560.0, 665.0, 842.0)
QUICK, LONG = 60, 2500


@dataclasses.dataclass
class Case:
    """An image to be written, and what its statements amount to.

    Attributes:
        contradicts: the statements that the row does not allow.
        may_refuse: words, one of which a refusal has although nothing contradicts the row, since
            the row has no value for excluded pixels.
        bad: positions of the bands that the bad-band list excludes.
        said: the statements, for the report of a failure.
    """

    rng: np.random.Generator
    row: dict[str, Any]
    pixels: np.ndarray
    contradicts: list[str] = dataclasses.field(default_factory=list)
    may_refuse: list[str] = dataclasses.field(default_factory=list)
    bad: list[int] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)

    def choose(self, *ways: str) -> str:
        """One of some ways to state something; most images state little."""
        way = str(self.rng.choice(ways)) if self.rng.random() < 0.35 else "none"
        if way != "none":
            self.said.append(way)
        if way.startswith("wrong"):
            self.contradicts.append(way)
        return way


def make_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    dtype = str(rng.choice(["uint16", "int16", "float32"]))
    nodata = (
        {"uint16": 0, "int16": -9999, "float32": -9999.0}[dtype] if rng.random() < 0.6 else None
    )
    pixels = rng.integers(100, 9000, (4, SIDE, SIDE)).astype(dtype)
    if nodata is not None and rng.random() < 0.5:
        pixels[:, 0, 0] = nodata
    if dtype == "float32" and rng.random() < 0.3:
        pixels[1, 1, 1] = np.nan
    row = {
        "id": "fuzz",
        "title": "Fuzz",
        "gsd_m": None,
        "dtype": dtype,
        "scale": 1e-4,
        "units": "reflectance",
        "nodata": nodata,
        "source": "test",
        "bands": {"name": list(NAMES), "number": [1, 2, 3, 4], "centre_nm": list(NM)},
    }
    return Case(rng, row, pixels)


def expected_missing(case: Case, excluded: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """bool [c, h, w]: excluded by GDAL's mask, by the row, or by the bad-band list."""
    missing = excluded.copy()
    if case.row["nodata"] is not None:
        missing |= pixels == case.row["nodata"]
    if pixels.dtype.kind == "f":
        missing |= ~np.isfinite(pixels)
    missing[case.bad] = True
    return missing


def check(case: Case, read: Callable[[], Sample], gdal: Callable[[], tuple], files: str) -> None:
    try:
        sample = read()
    except ArchiveError as error:
        text = str(error)
        assert files in text, text
        assert case.contradicts or any(word in text for word in case.may_refuse), (case.said, text)
        return
    assert not case.contradicts, case.said
    pixels, excluded = gdal()
    missing = Sensor.from_row(case.row).missing(sample.pixels)
    np.testing.assert_array_equal(missing, expected_missing(case, excluded, pixels))
    np.testing.assert_array_equal(sample.pixels[~missing], pixels[~missing])


# ------------------------------------------------------------------ GeoTIFF


def write_tiff(case: Case, path: Path) -> None:
    alpha = case.choose("alpha")
    cube = case.pixels
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "dtype": cube.dtype}
    count = 5 if alpha == "alpha" else 4
    where = case.choose("mask inside", "mask beside") if alpha == "none" else "none"
    nodata = case.choose("nodata as in the row", "wrong nodata")
    inside = where == "mask inside"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside),
        rasterio.open(path, "w", count=count, **profile) as file,
    ):
        file.write(cube, [1, 2, 3, 4])
        if alpha == "alpha":
            opaque = np.full((SIDE, SIDE), 255)
            opaque[-1] = 0
            file.write(opaque.astype(cube.dtype), 5)
            file.colorinterp = [*file.colorinterp[:4], rasterio.enums.ColorInterp.alpha]
        if where != "none":
            valid = np.ones((SIDE, SIDE), bool)
            valid[-2:] = False
            file.write_mask(valid)
        if nodata == "wrong nodata":
            file.nodata = 5
        elif nodata != "none" and case.row["nodata"] is not None:
            file.nodata = case.row["nodata"]
        _write_names(case, file)
        _write_wavelengths(case, file)
        _write_scale(case, file)
        _write_bad_bands(case, file)
    if alpha != "none" or where != "none":
        case.may_refuse += ["mask excludes", "mask declares valid"]
    _write_aux(case, path)
    _write_stac(case, path)


def _write_names(case: Case, file: Any) -> None:
    way = case.choose("names", "positions", "other text", "wrong order of names", "wrong names")
    names = {
        "names": ("B02", "band 3", "SR_B4", "B8, 842 nm"),
        "positions": ("Band 1", "Band 2", "Band 3", "Band 4"),
        "other text": ("stack", "stack", "stack", "stack"),
        "wrong order of names": NAMES[::-1],
        "wrong names": ("B2", "B3", "B4", "B8A"),
    }.get(way, ())
    for number, name in enumerate(names, 1):
        file.set_band_description(number, name)


def _write_wavelengths(case: Case, file: Any) -> None:
    way = case.choose("micrometres", "nanometres", "wrong wavelengths", "wrong unit")
    for number, nm in enumerate(NM if way != "none" else (), 1):
        if way == "micrometres":
            file.update_tags(number, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=str(nm / 1000))
        elif way == "nanometres":
            file.update_tags(number, wavelength=str(nm), wavelength_units="Nanometer")
        elif way == "wrong wavelengths":
            file.update_tags(number, wavelength=str(nm + 200), wavelength_units="nm")
        else:
            file.update_tags(number, wavelength=str(nm), wavelength_units="furlongs")


def _write_scale(case: Case, file: Any) -> None:
    way = case.choose("scale", "wrong scale", "wrong offset")
    if way == "scale":
        file.scales = (1e-4,) * file.count
    elif way == "wrong scale":
        file.scales = (0.01,) * file.count
    elif way == "wrong offset":
        file.offsets = (-0.1,) * file.count


def _write_bad_bands(case: Case, file: Any) -> None:
    way = case.choose("good bands", "bad band")
    for number in range(1, 5 if way != "none" else 1):
        is_bad = way == "bad band" and number == 3
        file.update_tags(number, bbl="0" if is_bad else "1")
    if way == "bad band":
        case.bad = [2]
        case.may_refuse.append("bad-band list")


def _write_aux(case: Case, path: Path) -> None:
    way = case.choose("aux of statistics", "aux nodata", "wrong aux nodata", "wrong aux scale")
    if way == "none" or (way == "aux nodata" and case.row["nodata"] is None):
        return
    band = {
        "aux of statistics": "<Metadata><MDI key='STATISTICS_MEAN'>3</MDI></Metadata>",
        "aux nodata": f"<NoDataValue>{case.row['nodata']}</NoDataValue>",
        "wrong aux nodata": "<NoDataValue>5</NoDataValue>",
        "wrong aux scale": "<Scale>0.01</Scale><Offset>0</Offset>",
    }[way]
    if way == "aux nodata" and "wrong nodata" in case.contradicts:
        case.contradicts.remove("wrong nodata")  # GDAL prefers the sidecar to the tag
    bands = "".join(f'<PAMRasterBand band="{n}">{band}</PAMRasterBand>' for n in range(1, 5))
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")


def _write_stac(case: Case, path: Path) -> None:
    way = case.choose("stac", "stac of another file", "wrong stac names", "wrong stac scale")
    if way == "none":
        return
    names = NAMES[::-1] if way == "wrong stac names" else NAMES
    scale = 0.5 if way == "wrong stac scale" else 1e-4
    bands = [
        {"name": name, "center_wavelength": nm / 1000} for name, nm in zip(names, NM, strict=True)
    ]
    if way == "wrong stac names":
        bands = [{"name": name} for name in names]
    file = "other.tif" if way == "stac of another file" else path.name
    asset = {"href": file, "eo:bands": bands, "raster:bands": [{"scale": scale, "offset": 0}] * 4}
    item = {"stac_version": "1.0.0", "assets": {"data": asset}}
    path.with_suffix(".json").write_text(json.dumps(item))


def _gdal_tiff(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with rasterio.open(path) as file:
        return file.read([1, 2, 3, 4]), file.read_masks([1, 2, 3, 4]) == 0


def try_tiff(root: Path, seed: int) -> None:
    case, folder = make_case(seed), root / str(seed)
    folder.mkdir()
    (folder / "row.json").write_text(json.dumps(case.row))
    image = folder / "in" / "a.tif"
    image.parent.mkdir()
    write_tiff(case, image)
    reader = make_reader("geotiff", image.parent, sensor=str(folder / "row.json"))

    def read() -> Sample:
        (item,) = with_sidecars(reader.archive, reader.items())
        return reader.read(item, Files(reader.archive, item))

    check(case, read, lambda: _gdal_tiff(image), "a.tif")


# ------------------------------------------------------------------ ENVI

_CODES = {"uint16": 12, "int16": 2, "float32": 4}


def write_envi(case: Case, folder: Path) -> None:
    big = case.rng.random() < 0.5
    lines = [
        *("ENVI", f"samples = {SIDE}", f"lines = {SIDE}", "bands = 4", "header offset = 0"),
        f"data type = {_CODES[case.row['dtype']]}",
        "interleave = bsq",
    ]
    if big or case.rng.random() < 0.5:
        lines.append(f"byte order = {int(big)}")
    for add in (_envi_nodata, _envi_scale, _envi_bands, _envi_bad_bands):
        lines += add(case)
    (folder / "s.HDR").write_text("\n".join(lines) + "\n")
    order = ">" if big else "<"
    data = case.pixels.astype(case.pixels.dtype.newbyteorder(order)).tobytes()
    (folder / "s.IMG").write_bytes(data)


def _envi_nodata(case: Case) -> list[str]:
    way = case.choose("ignore value as in the row", "wrong ignore value", "ignore NaN")
    value = {"wrong ignore value": 5, "ignore NaN": "nan"}.get(way, case.row["nodata"])
    return [] if way == "none" or value is None else [f"data ignore value = {value}"]


def _envi_scale(case: Case) -> list[str]:
    way = case.choose("gains", "wrong gains", "wrong offsets", "factor", "wrong factor")
    return {
        "gains": ["data gain values = {1e-4, 1e-4, 1e-4, 1e-4}"],
        "wrong gains": ["data gain values = {1e-4, 1e-4, 0.01, 1e-4}"],
        "wrong offsets": ["data offset values = {0, 0, 0, -5}"],
        "factor": ["reflectance scale factor = 10000"],
        "wrong factor": ["reflectance scale factor = 100"],
    }.get(way, [])


def _envi_bands(case: Case) -> list[str]:
    way = case.choose("names", "wrong names", "wavelengths", "microns", "wrong wavelengths")
    return {
        "names": ["band names = {B2, B3, B4, B8}"],
        "wrong names": ["band names = {B8, B4, B3, B2}"],
        "wavelengths": ["wavelength = {490, 560, 665, 842}", "wavelength units = Nanometer"],
        "microns": ["wavelength units = Microns", "wavelength = {.49, .56, .665, .842}"],
        "wrong wavelengths": ["wavelength = {842, 560, 665, 490}", "wavelength units = nm"],
    }.get(way, [])


def _envi_bad_bands(case: Case) -> list[str]:
    way = case.choose("good bands", "bad band")
    if way == "bad band":
        case.bad = [2]
        case.may_refuse.append("bad-band list")
    return {"good bands": ["bbl = {1, 1, 1, 1}"], "bad band": ["bbl = { 1, 1, 0, 1 }"]}.get(way, [])


def try_envi(root: Path, seed: int) -> None:
    case, folder = make_case(seed), root / str(seed)
    folder.mkdir()
    (folder / "row.json").write_text(json.dumps(case.row))
    scene = folder / "in"
    scene.mkdir()
    write_envi(case, scene)
    options = {"image": "s.HDR", "sensor": str(folder / "row.json")}

    def read() -> Sample:
        reader = make_reader("hsi-scene", scene, **options)
        (item,) = reader.items()
        return reader.read(item, Files(reader.archive, item))

    nothing = np.zeros(case.pixels.shape, bool)
    check(case, read, lambda: (case.pixels, nothing), "s.")


@pytest.mark.parametrize("attempt", [try_tiff, try_envi], ids=["geotiff", "envi"])
def test_what_an_image_says_is_honoured_or_refused(tmp_path: Path, attempt: Callable):
    for seed in range(QUICK):
        attempt(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [try_tiff, try_envi], ids=["geotiff", "envi"])
def test_what_an_image_says_is_honoured_or_refused_at_length(tmp_path: Path, attempt: Callable):
    """Together 5,000 images."""
    for seed in range(QUICK, QUICK + LONG):
        attempt(tmp_path, seed)
