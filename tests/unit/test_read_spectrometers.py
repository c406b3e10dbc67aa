"""PRISMA, EMIT and DESIS products: bands, scales and pixels as h5py and GDAL read them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import desis, emit, make_reader, prisma, read_all, reject

from data_prep.formats import remarks

# ------------------------------------------------------------------ PRISMA

# Of the tiny cubes: ascending, without those of no wavelength.
VNIR, SWIR = (5, 4, 3, 2, 1), (2, 1, 0)


def stored(path: Path, level: str = "L2D") -> np.ndarray:
    """uint16 [c, row, column] in the order of the store, without the error codes."""
    with h5py.File(path) as file:
        fields = file[f"HDFEOS/SWATHS/PRS_{level}_HCO/Data Fields"]
        cubes = [fields["VNIR_Cube"][:, VNIR[::-1]][:, ::-1], fields["SWIR_Cube"][:, :3][:, ::-1]]
    return np.concatenate(cubes, axis=1).transpose(1, 0, 2)


def errors(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        fields = file["HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields"]
        codes = [fields[f"{camera}_PIXEL_L2_ERR_MATRIX"][()] for camera in ("VNIR", "SWIR")]
    kept = [codes[0][:, list(VNIR)], codes[1][:, list(SWIR)]]
    return np.concatenate(kept, axis=1).transpose(1, 0, 2)


def test_prisma_pixels_are_those_of_h5py_but_for_errors_and_bad_bands(tmp_path: Path) -> None:
    path = prisma.write_product(tmp_path)
    (sample,) = read_all("prisma", tmp_path, patch_size=0)
    expected = np.where(errors(path) == 0, stored(path), 0)
    expected[7] = 0  # S1, whose flag is 0
    np.testing.assert_array_equal(sample.pixels, expected)
    (row,) = make_reader("prisma", tmp_path).sensors
    assert [band.name for band in row.bands] == ["V6", "V5", "V4", "V3", "V2", "S3", "S2", "S1"]
    assert [band.number for band in row.bands] == [6, 5, 4, 3, 2, 69, 68, 67]
    assert [bool(band.bad) for band in row.bands] == [False] * 7 + [True]
    assert row.missing(sample.pixels)[:, 10, 2:4].sum() == 6  # two codes in V2 and S2; S1 is bad
    np.testing.assert_allclose(row.scales, [1.2 / 65535] * 5 + [0.9 / 65535] * 3, rtol=1e-6)
    assert (row.bands[0].fwhm_nm, row.nodata, row.units) == (11.5, 0, "surface reflectance")


def test_prisma_l2d_is_on_its_grid(tmp_path: Path) -> None:
    prisma.write_product(tmp_path)
    samples = {
        sample.id.partition("/")[2]: sample for sample in read_all("prisma", tmp_path, patch_size=8)
    }
    assert samples["00008_00016"].affine == (30, 0, 600000 + 16 * 30, 0, -30, 5001000 - 8 * 30)
    assert "00000_00016" not in samples  # beyond the swath
    corners = make_reader("prisma", tmp_path, patch_size=8).footprint(
        make_reader("prisma", tmp_path, patch_size=8).items()[0]
    )
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32632", corners[::2], corners[1::2])
    np.testing.assert_allclose(x, [600000, 600240, 600240, 600000], atol=1e-3)
    np.testing.assert_allclose(y, [5001000, 5001000, 5000760, 5000760], atol=1e-3)


@pytest.mark.parametrize("level", ["L1", "L2C"])
def test_prisma_in_the_geometry_of_the_sensor(tmp_path: Path, level: str) -> None:
    path = prisma.write_product(tmp_path, level=level)
    (sample,) = read_all("prisma", tmp_path, patch_size=0)
    assert (sample.crs, sample.affine) == (None, None)
    np.testing.assert_allclose(sample.lonlat, [11 + 13 * 4e-4, 45 - 8 * 3e-4])
    (row,) = make_reader("prisma", tmp_path).sensors
    if level == "L1":
        np.testing.assert_allclose([row.scale, row.offset], [0.01, -0.5])
        found = sample.pixels[4, 10, 3]  # V2, code 3: of lower accuracy, but data
        assert found == stored(path, level)[4, 10, 3] != 0


def test_prisma_products_of_other_scales_need_physical_values(tmp_path: Path) -> None:
    first = prisma.write_product(tmp_path)
    prisma.write_product(tmp_path, prisma.STARTS[1], 2, scale={"Vnir": (0, 1), "Swir": (0, 0.9)})
    reject("prisma", tmp_path, prisma.STARTS[1], "the scale", "--values physical", patch_size=0)
    sample, _ = read_all("prisma", tmp_path, patch_size=0, values="physical")
    (row,) = make_reader("prisma", tmp_path, values="physical").sensors
    assert (sample.pixels.dtype, row.scale, row.nodata) == (np.float32, 1.0, None)
    good = errors(first)[:7] == 0
    scale = np.array([1.2] * 5 + [0.9] * 2)[:, None, None]
    expected = stored(first)[:7] * scale / 65535
    np.testing.assert_allclose(sample.pixels[:7][good], expected[good], rtol=1e-6)
    assert np.isnan(sample.pixels[:7][~good]).all() and np.isnan(sample.pixels[7]).all()


def test_bad_bands_are_left_out_on_request(tmp_path: Path) -> None:
    prisma.write_product(tmp_path / "p")
    (sample,) = read_all("prisma", tmp_path / "p", patch_size=0, drop_bad_bands=True)
    assert len(sample.pixels) == 7
    emit.write_granule(tmp_path / "e")
    (sample,) = read_all("emit", tmp_path / "e", patch_size=0, drop_bad_bands=True)
    np.testing.assert_array_equal(
        sample.pixels, emit.cube(1)[:, :, [0, 1, 2, 3, 5]].transpose(2, 0, 1)
    )


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"Product_StartTime": "yesterday"}, "Product_StartTime"),
        ({"Epsg_Code": np.int32(1)}, "Epsg_Code is 1"),
        ({"Product_LRcorner_easting": 7e5}, "its corners are"),
        ({"List_Cw_Vnir": np.zeros(5, np.float32)}, "List_Cw_Vnir has 5 values"),
        ({"L2ScaleVnirMax": np.float32(0)}, "describes no bands"),
    ],
)
def test_prisma_products_that_contradict_themselves(
    tmp_path: Path, attributes: dict, words: str
) -> None:
    prisma.write_product(tmp_path, **attributes)
    reject("prisma", tmp_path, "PRS_L2D_STD", words, patch_size=0)


# ------------------------------------------------------------------ EMIT


def test_emit_pixels_are_those_of_h5py(tmp_path: Path) -> None:
    path = emit.write_granule(tmp_path)
    with remarks.collect() as found:
        (sample,) = read_all("emit", tmp_path, patch_size=0)
    with h5py.File(path) as file:
        expected = file["reflectance"][()].transpose(2, 0, 1)
    good = np.array(emit.GOOD, bool)
    np.testing.assert_array_equal(sample.pixels[good], expected[good])
    assert (sample.pixels[~good] == -9999).all()
    assert "bands that the product declares bad are no-data" in found.texts
    (row,) = make_reader("emit", tmp_path).sensors
    assert [bool(band.bad) for band in row.bands] == [False] * 4 + [True, False]
    np.testing.assert_allclose(row.centres_nm, emit.CENTRES, rtol=1e-6)
    assert (row.bands[0].fwhm_nm, row.nodata, sample.affine) == (8.5, -9999, None)
    np.testing.assert_allclose(sample.lonlat, [11 + 10 * 5e-4, 45 - 9 * 5e-4])


@pytest.mark.parametrize("patch_size", [0, 8])
def test_emit_is_orthorectified_by_its_own_table(tmp_path: Path, patch_size: int) -> None:
    emit.write_granule(tmp_path)
    x, y = emit.lookup()
    whole = np.full((6, 20, 24), -9999, np.float32)
    seen = x > 0
    whole[:, seen] = emit.cube(1)[y[seen] - 1, x[seen] - 1].T
    whole[4] = -9999
    options = {"patch_size": patch_size, "orthorectify": True}
    items = make_reader("emit", tmp_path, **options).items()
    parts = {item.id: item.part for item in items}
    for sample in read_all("emit", tmp_path, **options):
        row, column = parts[sample.id]
        _, height, width = sample.pixels.shape
        expected = whole[:, row : row + height, column : column + width]
        np.testing.assert_array_equal(sample.pixels, expected)
        np.testing.assert_allclose(sample.affine[2], 11 + 5e-4 * column)
        assert sample.crs == "EPSG:4326"


def test_emit_granules_of_other_wavelengths_are_refused(tmp_path: Path) -> None:
    emit.write_granule(tmp_path)
    moved = [nm + 200 for nm in emit.CENTRES]
    emit.write_granule(tmp_path, emit.GRANULES[1], 2, moved)
    reject("emit", tmp_path, emit.GRANULES[1], "wavelengths are not those", patch_size=0)


def test_emit_with_another_fill_value_is_refused(tmp_path: Path) -> None:
    path = emit.write_granule(tmp_path)
    with h5py.File(path, "r+") as file:
        file["reflectance"].attrs["_FillValue"] = np.float32(-1)
    reject("emit", tmp_path, "_FillValue -1", patch_size=0)


# ------------------------------------------------------------------ DESIS


def test_desis_pixels_and_masks_are_those_of_gdal(tmp_path: Path) -> None:
    desis.write_product(tmp_path)
    (sample,) = read_all("desis", tmp_path, patch_size=0)
    np.testing.assert_array_equal(sample.pixels, desis.cube(1))
    with rasterio.open(tmp_path / f"{desis.SCENES[0]}-QL_QUALITY-2.tif") as file:
        np.testing.assert_array_equal(sample.masks["cloud_land"], file.read(6))
        np.testing.assert_array_equal(sample.masks["water"], file.read(8))
    (row,) = make_reader("desis", tmp_path).sensors
    np.testing.assert_allclose(row.centres_nm, desis.CENTRES)
    assert (row.bands[0].fwhm_nm, row.scale, row.offset, row.nodata) == (2.9, 1e-4, 0, -32768)
    assert (sample.time, sample.product) == (1639863955, "V0220")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"gain": "0.001"}, "has the scale 0.001, in the first product 0.0001"),
        ({"shift": 100}, "wavelengths are not those"),
        ({"time": "noon"}, "startTime is 'noon'"),
        ({"gain": "much"}, "gainOfBand of band 1 is 'much'"),
    ],
)
def test_desis_products_that_differ_or_are_wrong(tmp_path: Path, texts: dict, words: str) -> None:
    desis.write_product(tmp_path)
    desis.write_product(tmp_path, desis.SCENES[1], 2, **texts)
    reject("desis", tmp_path, desis.SCENES[1], words, patch_size=0)


def test_desis_images_with_another_no_data_value_are_refused(tmp_path: Path) -> None:
    desis.write_product(tmp_path)
    tiny_archives.write(tmp_path / f"{desis.SCENES[0]}-SPECTRAL_IMAGE.tif", desis.cube(1), nodata=0)
    reject("desis", tmp_path, "no-data value is 0", patch_size=0)
