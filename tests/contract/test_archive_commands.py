"""The table "I have ..." of docs/archives.md: each of its commands, on a tiny input of its kind."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from data_prep.__main__ import main
from eo_jax.data import open_store
from eo_jax.sensors import get_sensor
from tests import layouts, tiny_archives
from tests.layouts import geotiff as flights
from tests.layouts import hsi_scene, ssl4eo_l

TEXT = (Path(__file__).parents[2] / "docs" / "archives.md").read_text()
SECTION = TEXT.partition("## I have ...")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| (.+) \| `python -m data_prep (convert .+)` \|$", SECTION, re.MULTILINE)
SIZE = 20
BANDS_JSON = Path(layouts.__file__).with_name("drone_bands.json")


def image(path: Path, sensor: str, seed: int = 0, **changes) -> None:
    """A GeoTIFF of all bands of a row."""
    row = get_sensor(sensor)
    cube = np.random.default_rng(seed).integers(2000, 6000, (len(row.bands), SIZE, SIZE))
    tiny_archives.write(path, cube.astype(row.dtype), **{"nodata": row.nodata, **changes})


def label(path: Path) -> None:
    """A label map of the grid of `image`, with classes 1 to 4."""
    classes = np.random.default_rng(0).integers(1, 5, (1, SIZE, SIZE), np.uint8)
    tiny_archives.write(path, classes, nodata=0)


def layout(name: str) -> Callable[[Path], None]:
    """Writes the tiny archive of a reader."""

    def write(root: Path) -> None:
        layouts.write(name, root)

    return write


def envi_scene(root: Path) -> None:
    nm = ", ".join(str(450 + 100 * band) for band in range(hsi_scene.BANDS_OF_OWN))
    hsi_scene.write_envi(
        root, wavelength=f"{{{nm}}}", wavelength_units="Nanometers", reflectance_scale_factor=10000
    )


def spectra(root: Path) -> None:
    hsi_scene.table(root.parent)
    savemat(root / "spectra.mat", {"spectra": hsi_scene.CUBE.reshape(hsi_scene.BANDS_OF_OWN, -1).T})
    savemat(root / "classes.mat", {"classes": 1 + np.arange(234, dtype=np.uint8)[:, None] % 3})


def exports(root: Path) -> None:
    image(root / "x.tif", "sentinel2_l2a")


def some_bands(root: Path) -> None:
    chosen = np.random.default_rng(0).integers(2000, 6000, (4, SIZE, SIZE), np.int16)
    nodata = get_sensor("sentinel2_l2a").nodata
    tiny_archives.write(
        root / "x.tif", chosen.astype(get_sensor("sentinel2_l2a").dtype), nodata=nodata
    )


def cubes(root: Path) -> None:
    cube = np.random.default_rng(0).integers(2000, 6000, (5, SIZE, SIZE), np.int16)
    path = tiny_archives.write(root / "x.tif", cube)
    tiny_archives.tag(path, np.linspace(450, 850, 5))


def flights_with_dates(root: Path) -> None:
    for name in flights.names():
        grid = {"nodata": flights.NODATA, "crs": "EPSG:32633"}
        tiny_archives.write(root / name, flights.pixels(0, SIZE, SIZE), **grid)
    shutil.copy(BANDS_JSON, root.parent / "bands.json")


def fields(root: Path) -> None:
    image(root / "images" / "x.tif", "sentinel2_l2a")
    label(root / "labels" / "x.tif")


def band_files(root: Path) -> None:
    row = get_sensor("sentinel2_l2a")
    for band in row.bands:
        side = SIZE if band.gsd_m == 10 else SIZE // 2
        plane = np.full((1, side, side), 3000, row.dtype)
        moved = tiny_archives.GRID["transform"] * tiny_archives.GRID["transform"].scale(SIZE / side)
        name = f"B{int(band.name[1:]):02}" if band.name[1:].isdigit() else band.name
        tiny_archives.write(
            root / "site" / f"scene_{name}.tif", plane, nodata=row.nodata, transform=moved
        )


def decibels(root: Path) -> None:
    row = get_sensor("sentinel1_grd")
    values = np.random.default_rng(0).normal(-12, 3, (len(row.bands), SIZE, SIZE))
    tiny_archives.write(root / "x.tif", values, nodata=row.nodata)


def terramesh(root: Path) -> None:
    image(root / "S2L2A" / "x.tif", "sentinel2_l2a_offset")
    label(root / "LULC" / "x.tif")


# {the words before the first comma or colon of the column "I have": function that writes it}
INPUTS: dict[str, Callable[[Path], None]] = {
    "a hyperspectral scene in ENVI format": envi_scene,
    "a list of spectra [n": spectra,
    "GeoTIFFs with all bands of a [sensor](../eo_jax/sensors)": exports,
    "GeoTIFFs with some bands of a sensor": some_bands,
    "GeoTIFFs with wavelengths in their tags": cubes,
    "GeoTIFFs of a camera of my own": flights_with_dates,
    "GeoTIFFs of several dates": flights_with_dates,
    "GeoTIFFs with label maps beside them": fields,
    "one GeoTIFF per band": band_files,
    "SAR backscatter in decibels": decibels,
    "modalities side by side": terramesh,
}
TINY = {  # options for archives that are smaller than published ones
    "ssl4eo-l": ("--size", str(ssl4eo_l.SIZE)),
    "enmap-l2a": ("--patch-size", "8"),
}


def test_the_table_is_read() -> None:
    assert len(ROWS) == SECTION.count("`python -m data_prep convert") >= 26
    assert {re.split("[,:]", title)[0] for title, _ in ROWS} >= INPUTS.keys()


@pytest.mark.parametrize(("title", "command"), ROWS, ids=[title for title, _ in ROWS])
def test_every_command(
    title: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(re.sub(r"--patch-size \d+", "--patch-size 10", command))
    root = tmp_path / words[words.index("--input") + 1]
    root.mkdir()
    INPUTS.get(re.split("[,:]", title)[0], layout(words[1]))(root)
    monkeypatch.chdir(tmp_path)
    assert main([*words, *TINY.get(words[1], ()), "--workers", "1"]) == 0
    store = open_store(tmp_path / words[words.index("--output") + 1])
    assert len(store) and "rejects" not in store.manifest
    has_labels = "label" in title or "class" in title or "LULC" in title
    assert bool(store.manifest["labels"]) or not has_labels


@pytest.mark.parametrize(("reader", "kind"), [("landsat-c2", "tar"), ("sentinel2-safe", "zip")])
def test_products_as_downloaded(
    reader: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = (words for _, words in ROWS if words.split()[1] == reader)
    words = shlex.split(command.replace("--patch-size 256", "--patch-size 10"))
    folder = tmp_path / words[words.index("--input") + 1]
    layouts.write(reader, tmp_path / "product")
    folder.mkdir()
    shutil.make_archive(str(folder / "product"), kind, tmp_path / "product")
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--workers", "1"]) == 0
    assert len(open_store(tmp_path / words[words.index("--output") + 1]))
