"""The archive readers: every pixel as in the file, every band by its number, every fault with its
file name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import make_reader, read_all, reject

from data_prep.__main__ import main
from data_prep.archive import ArchiveError
from eo_jax.sensors import ENMAP, ENMAP_PRODUCT

KEPT = [number - 1 for number in ENMAP.band_numbers]


# ------------------------------------------------------------------ real files


def test_potsdam_tiles_as_rasterio_reads_them(sample_data: Path) -> None:
    root = sample_data / "enmap" / "potsdam_l2a_tiles"
    samples = read_all("enmap-tiles", root)
    assert len(samples) == 10
    for sample in samples:
        original = tiny_archives.read(root / "images" / f"{sample.id}.tif")
        assert sample.pixels.dtype == np.int16
        np.testing.assert_array_equal(sample.pixels, original[KEPT])
        np.testing.assert_array_equal(
            sample.labels["landcover"], tiny_archives.read(root / "labels" / f"{sample.id}.tif")[0]
        )
        np.testing.assert_allclose(sample.wavelengths_nm, ENMAP.centres_nm, atol=0.5)


def test_potsdam_georeference_and_time(sample_data: Path) -> None:
    sample = read_all("enmap-tiles", sample_data / "enmap" / "potsdam_l2a_tiles")[0]
    assert sample.id == sample.group == "enmap_potsdam_tile_128_0"
    assert (sample.crs, sample.gsd_m, sample.time) == (
        "EPSG:32633",
        30.0,
        1658659526,
    )  # 2022-07-24T10:45:26Z
    assert sample.affine == (30.0, 0.0, 366015.0, 0.0, -30.0, 5809965.0)
    assert sample.lonlat == pytest.approx((13.0368, 52.4193), abs=1e-4)  # Potsdam


def test_hyspecnet_patch_needs_the_option(sample_data: Path) -> None:
    reject(
        "enmap-tiles",
        sample_data / "enmap" / "hyspecnet11k",
        "SPECTRAL_IMAGE.TIF",
        "wavelength",
        "--trust-product-order",
    )


def test_hyspecnet_patch(sample_data: Path) -> None:
    root = sample_data / "enmap" / "hyspecnet11k"
    (sample,) = read_all(
        "enmap-tiles", root, trust_product_order=True
    )  # the quality layers next to it are not tiles
    np.testing.assert_array_equal(
        sample.pixels, tiny_archives.read(root / f"{sample.id}.TIF")[KEPT]
    )
    assert not (sample.pixels == ENMAP.nodata).any()  # exactly the 22 empty bands are dropped
    assert (sample.product, sample.time, sample.wavelengths_nm) == ("V010110", 1667492678, None)


# ------------------------------------------------------------------ bands


def test_bands_are_picked_by_number(tmp_path: Path) -> None:
    tiny_archives.tag(
        tiny_archives.write(tmp_path / "a.tif", tiny_archives.pixels(1, 224)),
        ENMAP_PRODUCT.centres_nm,
    )
    tiny_archives.tag(
        tiny_archives.write(tmp_path / "b.tif", tiny_archives.pixels(1, 224)[KEPT]),
        ENMAP.centres_nm,
    )
    product, kept = read_all("enmap-tiles", tmp_path)
    np.testing.assert_array_equal(product.pixels, tiny_archives.pixels(1, 224)[KEPT])
    np.testing.assert_array_equal(kept.pixels, product.pixels)
    np.testing.assert_array_equal(kept.wavelengths_nm, product.wavelengths_nm)


def test_scene_wavelengths_do_not_reorder_bands(tmp_path: Path) -> None:
    """Bands 91 and 102 are 0.2 nm apart; in this scene calibration reverses their order, which must
    not move a band.
    """
    nm = ENMAP_PRODUCT.centres_nm.copy()
    nm[90], nm[101] = nm[90] + 0.4, nm[101] - 0.4
    tiny_archives.tag(tiny_archives.write(tmp_path / "a.tif", tiny_archives.pixels(1, 224)), nm)
    np.testing.assert_array_equal(
        read_all("enmap-tiles", tmp_path)[0].pixels, tiny_archives.pixels(1, 224)[KEPT]
    )


def test_micrometres_are_converted(tmp_path: Path) -> None:
    path = tiny_archives.write(tmp_path / "a.tif", tiny_archives.pixels(1, 224))
    tiny_archives.tag(path, ENMAP_PRODUCT.centres_nm / 1000, "Micrometers")
    np.testing.assert_allclose(
        read_all("enmap-tiles", tmp_path)[0].wavelengths_nm, ENMAP.centres_nm, atol=0.01
    )


@pytest.mark.parametrize(
    ("nm", "units", "words"),
    [
        (
            ENMAP_PRODUCT.centres_nm[[1, 0, *range(2, 224)]],
            "Nanometers",
            ("2 of 224", "band 1 has 424.04 nm", "418.42"),
        ),
        (ENMAP_PRODUCT.centres_nm[::-1], "Nanometers", ("224 wavelengths", "another order")),
        (np.sort(ENMAP_PRODUCT.centres_nm), "Nanometers", ("band",)),
        (ENMAP_PRODUCT.centres_nm, "Micrometers", ("band 1 has 418420 nm",)),
        (ENMAP_PRODUCT.centres_nm / 1000, "Nanometers", ("band 1 has 0.41842 nm", "order or unit")),
        (
            ENMAP_PRODUCT.centres_nm,
            "Angstrom",
            ("band 1", "'Angstrom'", "Nanometers or Micrometers"),
        ),
        (ENMAP_PRODUCT.centres_nm[:223], "Nanometers", ("band 224", "no tag `wavelength`")),
        (np.full(224, np.nan), "Nanometers", ("224 of 224",)),
    ],
    ids=[
        "swapped",
        "reversed",
        "sorted",
        "nm called um",
        "um called nm",
        "unknown unit",
        "one missing",
        "nan",
    ],
)
def test_wrong_wavelengths(
    tmp_path: Path, nm: np.ndarray, units: str, words: tuple[str, ...]
) -> None:
    tiny_archives.tag(
        tiny_archives.write(tmp_path / "a.tif", tiny_archives.pixels(0, 224)), nm, units
    )
    reject("enmap-tiles", tmp_path, "a.tif", *words)


def test_untagged_202_bands_are_a_guess_for_tiles(tmp_path: Path) -> None:
    tiny_archives.write(tmp_path / "a.tif", tiny_archives.pixels(0))
    reject(
        "enmap-tiles", tmp_path, "a.tif", "no band has a tag `wavelength`", trust_product_order=True
    )


# ------------------------------------------------------------------ pixels


def test_whole_floats_become_int16(tmp_path: Path) -> None:
    tiny_archives.tag(
        tiny_archives.write(tmp_path / "a.tif", tiny_archives.pixels(3, 224).astype(np.float32)),
        ENMAP_PRODUCT.centres_nm,
    )
    (sample,) = read_all("enmap-tiles", tmp_path)
    assert sample.pixels.dtype == np.int16
    np.testing.assert_array_equal(sample.pixels, tiny_archives.pixels(3, 224)[KEPT])


@pytest.mark.parametrize("value", [1000.5, 40000.0, -8999.5])
def test_other_floats_stay(tmp_path: Path, value: float) -> None:
    cube = tiny_archives.pixels(0, 224).astype(np.float32)
    cube[5, 3, 4] = value
    tiny_archives.tag(tiny_archives.write(tmp_path / "a.tif", cube), ENMAP_PRODUCT.centres_nm)
    (sample,) = read_all("enmap-tiles", tmp_path)
    assert sample.pixels.dtype == np.float32
    np.testing.assert_array_equal(sample.pixels, cube[KEPT])


@pytest.mark.parametrize("value", [-32769.0, -9999.0, 1e20])
def test_values_that_no_reflectance_has_are_refused(tmp_path: Path, value: float) -> None:
    cube = tiny_archives.pixels(0, 224).astype(np.float32)
    cube[5, 3, 4] = value
    tiny_archives.tag(tiny_archives.write(tmp_path / "a.tif", cube), ENMAP_PRODUCT.centres_nm)
    reject("enmap-tiles", tmp_path, "a.tif", f"the value {value:g}", f'"nodata": {value:g}')


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_no_data(tmp_path: Path, value: float) -> None:
    cube = tiny_archives.pixels(0, 224).astype(np.float32)
    cube[141, 5, 6] = cube[150, 0, 0] = value
    tiny_archives.tag(tiny_archives.write(tmp_path / "a.tif", cube), ENMAP_PRODUCT.centres_nm)
    (sample,) = read_all("enmap-tiles", tmp_path)
    assert sample.pixels.dtype == np.int16
    expected = np.where(np.isfinite(cube), cube, ENMAP.nodata)[KEPT]
    np.testing.assert_array_equal(sample.pixels, expected)


def test_nan_in_dropped_bands_is_ignored(tmp_path: Path) -> None:
    cube = tiny_archives.pixels(0, 224).astype(np.float32)
    cube[130] = np.nan
    tiny_archives.tag(tiny_archives.write(tmp_path / "a.tif", cube), ENMAP_PRODUCT.centres_nm)
    assert read_all("enmap-tiles", tmp_path)[0].pixels.dtype == np.int16


def test_all_nodata(tmp_path: Path) -> None:
    cube = np.full((224, 32, 32), -32768, np.int16)
    cube[130] = 5  # a band that is dropped
    tiny_archives.tag(tiny_archives.write(tmp_path / "a.tif", cube), ENMAP_PRODUCT.centres_nm)
    reject("enmap-tiles", tmp_path, "a.tif", "every pixel", "--skip-bad")


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"dtype": "uint8"}, ("uint8", "int16 or float32")),
        ({"dtype": "float64"}, ("float64",)),
        ({"nodata": 0}, ("no-data value is 0", "-32768")),
    ],
)
def test_wrong_encoding(tmp_path: Path, profile: dict, words: tuple[str, ...]) -> None:
    tiny_archives.tile(tmp_path / "a.tif", **profile)
    reject("enmap-tiles", tmp_path, "a.tif", *words)


@pytest.mark.parametrize(("attribute", "value"), [("scales", 0.01), ("offsets", 5.0)])
def test_wrong_scale(tmp_path: Path, attribute: str, value: float) -> None:
    with rasterio.open(tiny_archives.tile(tmp_path / "a.tif"), "r+") as file:
        setattr(file, attribute, (value,) * 224)
    reject("enmap-tiles", tmp_path, "a.tif", f"{attribute[:-1]} of band 1 is {value:g}")


# ------------------------------------------------------------------ georeference and time


def test_absent_stays_absent(tmp_path: Path) -> None:
    tiny_archives.tile(tmp_path / "a.tif", crs=None, transform=None)
    (sample,) = read_all("enmap-tiles", tmp_path)
    assert (
        sample.crs,
        sample.affine,
        sample.gsd_m,
        sample.lonlat,
        sample.time,
        sample.product,
    ) == (None,) * 6


def test_degrees_are_not_metres(tmp_path: Path) -> None:
    tiny_archives.tile(
        tmp_path / "a.tif", crs="EPSG:4326", transform=rasterio.Affine(0.01, 0, 13, 0, -0.02, 52)
    )
    (sample,) = read_all("enmap-tiles", tmp_path)
    assert (sample.crs, sample.gsd_m) == ("EPSG:4326", None)
    assert sample.lonlat == pytest.approx((13.16, 51.68))


def test_rotated_grid_keeps_its_pixel_size(tmp_path: Path) -> None:
    tiny_archives.tile(tmp_path / "a.tif", transform=rasterio.Affine(24, 18, 4e5, 18, -24, 5e6))
    assert read_all("enmap-tiles", tmp_path)[0].gsd_m == pytest.approx(30)


def test_time_with_a_zone(tmp_path: Path) -> None:
    tiny_archives.tag(
        tiny_archives.tile(tmp_path / "a.tif"),
        ENMAP_PRODUCT.centres_nm,
        start_time="1970-01-01T02:00:00+01:00",
    )
    assert read_all("enmap-tiles", tmp_path)[0].time == 3600


def test_invalid_time(tmp_path: Path) -> None:
    tiny_archives.tag(
        tiny_archives.tile(tmp_path / "a.tif"), ENMAP_PRODUCT.centres_nm, start_time="yesterday"
    )
    reject("enmap-tiles", tmp_path, "a.tif", "'yesterday'", "ISO")


# ------------------------------------------------------------------ damaged and missing files


def test_truncated_anywhere(tmp_path: Path) -> None:
    data = tiny_archives.tile(tmp_path / "a.tif", compress="deflate").read_bytes()
    for size in (0, 3, 100, len(data) // 3, len(data) // 2, len(data) - 2000, len(data) - 1):
        (tmp_path / "a.tif").write_bytes(data[:size])
        reject("enmap-tiles", tmp_path, "a.tif", "cannot be read as GeoTIFF")


def test_flipped_bits_give_an_error_or_a_sample(tmp_path: Path) -> None:
    """A GeoTIFF has no checksum, so not every flip is detected; but each must end in a sample or an
    ArchiveError.
    """
    data = tiny_archives.tile(tmp_path / "a.tif", compress="deflate", predictor=2).read_bytes()
    rejected = 0
    for position in np.random.default_rng(0).integers(0, len(data), 60).tolist() + list(
        range(0, 16)
    ):
        damaged = bytearray(data)
        damaged[position] ^= 16
        (tmp_path / "a.tif").write_bytes(damaged)
        try:
            assert read_all("enmap-tiles", tmp_path)[0].pixels.shape == (202, 32, 32)
        except ArchiveError as error:
            assert "a.tif" in str(error)
            rejected += 1
    assert rejected > 20


def test_another_format_with_the_name_of_a_tiff(tmp_path: Path) -> None:
    path = tiny_archives.tile(tmp_path / "a.tif")
    vrt = (
        "<VRTDataset rasterXSize='32' rasterYSize='32'><VRTRasterBand "
        f"band='1'><SimpleSource><SourceFilename>{path}</SourceFilename>"
    )
    (tmp_path / "b.tif").write_text(vrt + "</SimpleSource></VRTRasterBand></VRTDataset>")
    reject("enmap-tiles", tmp_path, "b.tif", "not GeoTIFF")


@pytest.mark.parametrize(
    ("name", "bands", "expected"),
    [
        ("enmap-tiles", 223, "all 224"),
        ("spectral-earth", 201, "202"),
        ("spectral-earth", 224, "202"),
    ],
)
def test_wrong_band_count(tmp_path: Path, name: str, bands: int, expected: str) -> None:
    tiny_archives.write(tmp_path / "enmap" / "1" / "a.tif", tiny_archives.pixels(0, bands))
    reject(name, tmp_path, "enmap/1/a.tif", f"{bands} bands", expected)


def test_empty_folder(tmp_path: Path) -> None:
    reject("enmap-tiles", tmp_path, "no GeoTIFF")
    reject("spectral-earth", tmp_path, "enmap", "no such folder")
    (tmp_path / "enmap").mkdir()
    reject("spectral-earth", tmp_path, "enmap", "no GeoTIFF")


def test_reading_writes_nothing(tmp_path: Path) -> None:
    tiny_archives.tile(tmp_path / "a.tif")
    before = tiny_archives.files(tmp_path)
    read_all("enmap-tiles", tmp_path)
    assert tiny_archives.files(tmp_path) == before


def test_unknown_option_of_a_reader(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(
            [
                "convert",
                "spectral-earth",
                "--input",
                str(tmp_path),
                "--output",
                str(tmp_path / "store"),
                "--trust-product-order",
            ]
        )


# ------------------------------------------------------------------ listing


def test_tiles_are_found_below_in_any_case(tmp_path: Path) -> None:
    for name in ("b/y.TIFF", "a.TIF", "b/x.tif", "c-QL_CLOUD.TIF", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [item.id for item in make_reader("enmap-tiles", tmp_path).items()] == ["a", "b/x", "b/y"]


def test_two_files_of_one_id(tmp_path: Path) -> None:
    for name in ("a.tif", "a.tiff"):
        (tmp_path / name).touch()
    reject("enmap-tiles", tmp_path, "a.tiff", "same id 'a' as a.tif")


def test_spectral_earth_items_in_order(tmp_path: Path) -> None:
    items = make_reader("spectral-earth", tiny_archives.spectral_earth(tmp_path)).items()
    assert [item.id for item in items] == [
        f"{location}/{scene}"
        for location, scenes in tiny_archives.LOCATIONS.items()
        for scene in scenes
    ]
    assert [item.group for item in items] == [
        location for location, scenes in tiny_archives.LOCATIONS.items() for _ in scenes
    ]


def test_spectral_earth_keeps_the_cube(tmp_path: Path) -> None:
    tiny_archives.spectral_earth(tmp_path, "landuse")
    for sample in read_all("spectral-earth", tmp_path, labels=("landuse",)):
        np.testing.assert_array_equal(
            sample.pixels, tiny_archives.read(tmp_path / "enmap" / f"{sample.id}.tif")
        )
        np.testing.assert_array_equal(
            sample.labels["landuse"],
            tiny_archives.read(tmp_path / "landuse" / f"{sample.id}.tif")[0],
        )
        assert (sample.sensor, sample.wavelengths_nm, sample.time) == ("enmap", None, None)


def test_spectral_earth_wavelengths_must_agree(tmp_path: Path) -> None:
    path = tiny_archives.write(tmp_path / "enmap" / "1" / "a.tif", tiny_archives.pixels(0))
    tiny_archives.tag(path, ENMAP.centres_nm)
    np.testing.assert_allclose(
        read_all("spectral-earth", tmp_path)[0].wavelengths_nm, ENMAP.centres_nm
    )
    tiny_archives.tag(path, np.sort(ENMAP_PRODUCT.centres_nm)[:202])
    reject("spectral-earth", tmp_path, "enmap/1/a.tif", "wavelengths")


def test_spectral_earth_takes_int16_only(tmp_path: Path) -> None:
    tiny_archives.write(
        tmp_path / "enmap" / "1" / "a.tif", tiny_archives.pixels(0).astype(np.float32)
    )
    reject("spectral-earth", tmp_path, "enmap/1/a.tif", "float32", "expected int16")


# ------------------------------------------------------------------ labels


def test_label_missing(tmp_path: Path) -> None:
    tiny_archives.spectral_earth(tmp_path, "landuse")
    (tmp_path / "landuse" / "0000007" / "00003.tif").unlink()
    reject(
        "spectral-earth",
        tmp_path,
        "landuse/0000007/00003.tif",
        "enmap/0000007/00003.tif",
        labels=("landuse",),
    )
    reject("spectral-earth", tmp_path, "forest", "no such label folder", labels=("forest",))


@pytest.mark.parametrize(
    ("shape", "changes", "words"),
    [
        ((1, 16, 16), {}, ("16 x 16", "32 x 32")),
        ((2, 32, 32), {}, ("2 bands",)),
        ((1, 32, 32), {"crs": "EPSG:32632"}, ("EPSG:32632", "EPSG:32633")),
        (
            (1, 32, 32),
            {"transform": rasterio.Affine(30, 0, 366045, 0, -30, 5809965)},
            ("366045", "366015"),
        ),
    ],
    ids=["size", "bands", "crs", "shifted"],
)
def test_label_on_another_grid(
    tmp_path: Path, shape: tuple[int, ...], changes: dict, words: tuple[str, ...]
) -> None:
    tiny_archives.tile(tmp_path / "images" / "a.tif")
    tiny_archives.write(tmp_path / "labels" / "a.tif", np.ones(shape, np.uint8), **changes)
    reject(
        "enmap-tiles",
        tmp_path,
        "labels/a.tif",
        "images/a.tif" if "bands" not in words[0] else "",
        *words,
    )


def test_label_folder_elsewhere(tmp_path: Path) -> None:
    tiny_archives.tile(tmp_path / "tiles" / "a.tif")
    tiny_archives.write(
        tmp_path / "other" / "maps" / "tiles" / "a.tif", np.full((1, 32, 32), 300, np.uint16)
    )
    (sample,) = read_all("enmap-tiles", tmp_path, labels=("other/maps",))
    assert sample.labels["maps"].dtype == np.uint16
    assert (sample.labels["maps"] == 300).all()


@pytest.mark.parametrize("value", [np.nan, 1.5, 3e9])
def test_label_that_is_not_a_class(tmp_path: Path, value: float) -> None:
    tiny_archives.tile(tmp_path / "images" / "a.tif")
    tiny_archives.write(tmp_path / "labels" / "a.tif", np.full((1, 32, 32), value, np.float32))
    reject("enmap-tiles", tmp_path, "labels/a.tif", "not class numbers")


# ------------------------------------------------------------------ split lists


def write_lists(root: Path, **lists: list[str]) -> None:
    (root / "splits").mkdir()
    for split, names in lists.items():
        (root / "splits" / f"{split}.txt").write_text("".join(f"{name}.tif\n" for name in names))


def test_split_lists(tmp_path: Path) -> None:
    tiny_archives.spectral_earth(tmp_path)
    names = [item.id for item in make_reader("spectral-earth", tmp_path).items()]
    write_lists(tmp_path, train=names[2:], test=names[:2])
    assert [item.split for item in make_reader("spectral-earth", tmp_path).items()] == [
        "test"
    ] * 2 + ["train"] * 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"train": slice(0, 3), "val": slice(2, 7)},
            ("splits/val.txt", "'0000002/00001.tif'", "train.txt"),
        ),
        (
            {"train": slice(0, 3), "val": slice(4, 7)},
            ("enmap/0000007/00003.tif", "in no split list"),
        ),
    ],
    ids=["in two", "in none"],
)
def test_split_lists_that_contradict(
    tmp_path: Path, change: dict[str, slice], words: tuple[str, ...]
) -> None:
    tiny_archives.spectral_earth(tmp_path)
    names = [item.id for item in make_reader("spectral-earth", tmp_path).items()]
    write_lists(tmp_path, **{split: names[part] for split, part in change.items()})
    reject("spectral-earth", tmp_path, *words)


def test_split_list_of_a_missing_file(tmp_path: Path) -> None:
    write_lists(tiny_archives.spectral_earth(tmp_path), train=["0000099/00001"])
    reject("spectral-earth", tmp_path, "splits/train.txt", "enmap/0000099/00001.tif")
