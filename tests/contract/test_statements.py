"""What an image file says about itself is honoured or refused by every reader of rasters that GDAL
opens.

Each statement is written into the tiny archive of each reader, and contradicts the row of the
sensor table, or excludes pixels. docs/archives.md has the result as a table.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from layouts import make_reader, write

from data_prep.archive import ArchiveError
from data_prep.reader import Files, Item, Reader, SkipSample, with_sidecars
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor

READERS = (
    *("bigearthnet", "enmap-l2a", "enmap-tiles", "eurosat", "geonrw", "geotiff", "hyspecnet11k"),
    *("l7irish", "l8biome", "oscd", "spectral-earth", "spectral-earth-downstream", "ssl4eo-l"),
    *("ssl4eo-l-benchmark", "ssl4eo-s12", "geotiff-bands", "landsat-c2"),
    "sentinel2-safe",
)


class Image:
    """The image of an archive's first item that GDAL opens, to be changed and read again."""

    def __init__(self, name: str, root: Path):
        reader: Reader = make_reader(name, root, **write(name, root))
        if hasattr(reader, "max_nodata"):  # masked pixels may not exclude the sample
            reader = dataclasses.replace(reader, max_nodata=1.0)
        self.reader = reader
        self.item = next(item for item in reader.items() if self._is_read(item))
        self.path = root / self.item.files[0].name

    def read(self) -> Sample:
        """The sample, from a new listing of the archive."""
        self.reader.archive._reset()
        (item,) = with_sidecars(self.reader.archive, [self.item])
        return self.reader.read(item, Files(self.reader.archive, item))

    def _is_read(self, item: Item) -> bool:
        """Whether GDAL opens it, with data in its first band that the options do not exclude."""
        if not item.files[0].name.lower().endswith((".tif", ".tiff", ".jp2")):
            return False
        try:
            sample = self.reader.read(item, Files(self.reader.archive, item))
        except SkipSample:
            return False
        return not self.sensor(sample).missing(sample.pixels[:1]).all()

    def sensor(self, sample: Sample) -> Sensor:
        return next(row for row in self.reader.sensors if row.id == sample.sensor)


@pytest.fixture(params=READERS)
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Image:
    return Image(request.param, tmp_path / "archive")


def _excluded(shape: tuple[int, int]) -> np.ndarray:
    excluded = np.zeros(shape, bool)
    excluded[::2, 1:] = True
    return excluded


@pytest.mark.parametrize("place", ["internal", "beside"])
def test_masked_pixels_are_missing_or_the_file_is_refused(image: Image, place: str):
    if place == "internal" and image.path.suffix == ".jp2":
        pytest.skip("JPEG 2000 has no internal mask")
    before = image.read()
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=place == "internal"),
        rasterio.open(image.path, "r+") as file,
    ):
        excluded = _excluded(file.shape)
        file.write_mask(~excluded)
    assert (image.path.with_name(image.path.name + ".msk")).exists() is (place == "beside")
    try:
        sample = image.read()
    except ArchiveError as error:
        assert image.path.name in str(error) and "mask" in str(error)
        return
    missing, sensor = image.sensor(sample).missing(sample.pixels), image.sensor(sample)
    assert missing.any()
    new = missing & ~sensor.missing(before.pixels)
    np.testing.assert_array_equal(sample.pixels[~new], before.pixels[~new])
    with rasterio.open(image.path) as file:
        whole = file.read_masks(1) == 0
    if whole.shape == missing.shape[1:] and file.count == len(missing):
        np.testing.assert_array_equal(missing, missing | whole)


def _aux_nodata(path: Path) -> None:
    bands = _count(path)
    text = "".join(
        f'<PAMRasterBand band="{band}"><NoDataValue>7</NoDataValue></PAMRasterBand>'
        for band in range(1, bands + 1)
    )
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{text}</PAMDataset>")


def _aux_scale(path: Path) -> None:
    text = '<PAMRasterBand band="1"><Scale>0.5</Scale><Offset>0</Offset></PAMRasterBand>'
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{text}</PAMDataset>")


def _aux_damaged(path: Path) -> None:
    path.with_name(f"{path.name}.aux.xml").write_text("<PAMDataset><PAMRaster")


def _aux_entities(path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "b">]><PAMDataset>&a;</PAMDataset>'
    path.with_name(f"{path.name}.aux.xml").write_text(bomb)


def _mask_of_another_format(path: Path) -> None:
    vrt = "<VRTDataset rasterXSize='1' rasterYSize='1'></VRTDataset>"
    path.with_name(f"{path.name}.msk").write_text(vrt)


def _nodata_tag(path: Path) -> None:
    with rasterio.open(path, "r+") as file:
        file.nodata = 7


def _scale_tag(path: Path) -> None:
    with rasterio.open(path, "r+") as file:
        file.scales = (0.5,) * file.count


def _offset_tag(path: Path) -> None:
    with rasterio.open(path, "r+") as file:
        file.offsets = (0.25,) * file.count


def _stac(path: Path) -> None:
    bands = [{"nodata": 7} for _ in range(_count(path))]
    item = {
        "stac_version": "1.0.0",
        "assets": {"image": {"href": f"./{path.name}", "raster:bands": bands}},
    }
    path.with_suffix(".json").write_text(json.dumps(item))


def _count(path: Path) -> int:
    with rasterio.open(path) as file:
        return file.count


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no-data tag": (_nodata_tag, "no-data value is 7"),
    "no-data in .aux.xml": (_aux_nodata, "no-data value is 7"),
    "no-data in a STAC item": (_stac, "no-data value is 7"),
    "scale tag": (_scale_tag, "scale of band 1 is 0.5"),
    "scale in .aux.xml": (_aux_scale, "scale of band 1 is 0.5"),
    "offset tag": (_offset_tag, "offset of band 1 is 0.25"),
    "damaged .aux.xml": (_aux_damaged, ".aux.xml"),
    "entities in .aux.xml": (_aux_entities, ".aux.xml"),
    "mask that is not a TIFF": (_mask_of_another_format, ".msk"),
}


@pytest.mark.parametrize("statement", REFUSED)
def test_a_contradiction_is_refused_by_name(image: Image, statement: str):
    image.read()
    change, words = REFUSED[statement]
    change(image.path)
    with pytest.raises(ArchiveError) as caught:
        image.read()
    assert words in str(caught.value)
    assert image.path.name in str(caught.value) or image.path.stem in str(caught.value)


def test_bands_of_another_name_or_order_are_refused(image: Image):
    sample = image.read()
    names = [band.name for band in image.sensor(sample).bands]
    with rasterio.open(image.path, "r+") as file:
        if file.count == 1:  # a file per band: the name of the last one in the first
            file.set_band_description(1, names[-1])
        else:
            wrong = (
                names[::-1] if file.count == len(names) else [f"B{n}" for n in file.indexes][::-1]
            )
            file.descriptions = wrong
        is_single = file.count == 1
    if is_single and len(names) == 1:
        pytest.skip("a sensor of one band has no other name")
    with pytest.raises(ArchiveError) as caught:
        image.read()
    assert image.path.name in str(caught.value) and "band" in str(caught.value)


def _write_imagery(path: Path, key: str, value: str) -> None:
    """Metadata of GDAL's domain IMAGERY for every band."""
    if path.suffix == ".jp2":  # into which GDAL does not write it
        text = f'<Metadata domain="IMAGERY"><MDI key="{key}">{value}</MDI></Metadata>'
        band = f'<PAMRasterBand band="1">{text}</PAMRasterBand>'
        path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
        return
    with rasterio.open(path, "r+") as file:
        for number in file.indexes:
            file.update_tags(number, ns="IMAGERY", **{key: value})


def test_wavelengths_of_other_bands_are_refused(image: Image):
    centres = image.sensor(image.read()).centres_nm
    if not np.isfinite(centres).all():
        pytest.skip("the sensor table has no wavelengths of this sensor")
    _write_imagery(image.path, "CENTRAL_WAVELENGTH_UM", "3.3")
    with pytest.raises(ArchiveError, match="3300 nm"):
        image.read()


def test_widths_of_other_bands_are_refused(image: Image):
    sensor = image.sensor(image.read())
    if any(band.fwhm_nm is None for band in sensor.bands):
        pytest.skip("the sensor table has no widths of this sensor")
    _write_imagery(image.path, "FWHM_UM", "0.9")
    with pytest.raises(ArchiveError, match="width of 900 nm"):
        image.read()


def test_bad_bands_are_missing_or_the_file_is_refused(image: Image):
    before = image.read()
    with rasterio.open(image.path, "r+") as file:
        for number in file.indexes:
            file.update_tags(number, bbl="0" if number == 1 else "1")
    try:
        sample = image.read()
    except ArchiveError as error:
        assert image.path.name in str(error) and "bbl" in str(error)
        return
    missing = image.sensor(sample).missing(sample.pixels)
    whole_bands = missing.all(axis=(1, 2)) & ~image.sensor(sample).missing(before.pixels).all(
        axis=(1, 2)
    )
    assert whole_bands.sum() == 1
