"""Digital numbers of Sentinel-2 with and without the offset of 1000 never meet in a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import make_reader, read_all, reject

from data_prep.formats import remarks
from data_prep.reader import Files, with_sidecars
from eo_jax.sensors import get_sensor

OLD = "S2A_MSIL2A_20210706T085611_N0301_R007_T33NZA_20210706T120000"
NEW = "S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419"
AGAIN = "S2B_MSIL2A_20180706T085611_N0500_R007_T33NZA_20230706T120000"  # reprocessed since
OWN = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"  # by Sen2Cor outside ESA: states nothing
L1C = "S2C_MSIL1C_20250106T085611_N0511_R007_T33NZA_20250106T105611"
WITHOUT, WITH = "sentinel2_l2a", "sentinel2_l2a_offset_uint16"


def image(path: Path, bands: int = 12) -> Path:
    cube = np.random.default_rng(0).integers(200, 5000, (bands, 8, 8)).astype(np.uint16)
    return tiny_archives.write(path, cube)


@pytest.mark.parametrize(
    ("name", "sensor", "accepted"),
    [
        (OLD, WITHOUT, True),
        (OLD, WITH, False),
        (NEW, WITHOUT, False),
        (NEW, WITH, True),
        (AGAIN, WITHOUT, False),
        (AGAIN, WITH, True),
        (OWN, WITHOUT, True),
        (OWN, WITH, True),
        ("chip_20220706", WITHOUT, True),
    ],
)
@pytest.mark.parametrize("place", ["{}.tif", "{}.SAFE/GRANULE/IMG_DATA/stack.tif"])
def test_the_baseline_in_the_path(
    tmp_path: Path, name: str, sensor: str, accepted: bool, place: str
):
    path = image(tmp_path / place.format(name))
    if accepted:
        assert len(read_all("geotiff", tmp_path, sensor=sensor)) == 1
        return
    other = WITH if sensor == WITHOUT else WITHOUT
    words = (path.name, "processing baseline", f"--sensor {other}")
    reject("geotiff", tmp_path, *words, sensor=sensor)


def test_level_1c(tmp_path: Path):
    image(tmp_path / f"{L1C}.tif", bands=13)
    row = "sentinel2_l1c_offset_uint16"
    reject("geotiff", tmp_path, "05.11", f"--sensor {row}", sensor="sentinel2_l1c")
    (sample,) = read_all("geotiff", tmp_path, sensor=row)
    assert sample.sensor == row


@pytest.mark.parametrize(
    ("tags", "has_offset"),
    [
        ({"PROCESSING_BASELINE": "05.09"}, True),
        ({"PROCESSING_BASELINE": "02.14"}, False),
        ({"BOA_ADD_OFFSET": "-1000"}, True),
        ({"BOA_ADD_OFFSET_B02": "-1000", "BOA_ADD_OFFSET_B03": "-1000"}, True),
        ({"RADIO_ADD_OFFSET": "0", "PROCESSING_BASELINE": "05.00"}, False),
    ],
)
def test_metadata_decide_before_the_name(tmp_path: Path, tags: dict, has_offset: bool):
    name = OLD if has_offset else NEW  # which says the opposite
    path = image(tmp_path / f"{name}.tif")
    with rasterio.open(path, "r+") as file:
        file.update_tags(**tags)
    good, bad = (WITH, WITHOUT) if has_offset else (WITHOUT, WITH)
    assert len(read_all("geotiff", tmp_path, sensor=good)) == 1
    reject("geotiff", tmp_path, path.name, next(iter(tags)), sensor=bad)


def test_a_stac_item_that_says_the_offset_is_subtracted(tmp_path: Path):
    path = image(tmp_path / f"{NEW}.tif")
    item = {
        "stac_version": "1.0.0",
        "properties": {
            "s2:processing_baseline": "05.00",
            "earthsearch:boa_offset_applied": True,
        },
        "assets": {"visual": {"href": f"https://example.org/x/{path.name}?token=1"}},
    }
    path.with_suffix(".json").write_text(json.dumps(item))
    reader = make_reader("geotiff", tmp_path, sensor=WITHOUT)
    (with_item,) = with_sidecars(reader.archive, reader.items())
    assert reader.read(with_item, Files(reader.archive, with_item)).sensor == WITHOUT


def test_harmonised_archives_are_declared(tmp_path: Path):
    image(tmp_path / f"{NEW}.tif")
    options = {"sensor": WITHOUT, "harmonised": True}
    reader = make_reader("geotiff", tmp_path, **options)
    (item,) = reader.items()
    with remarks.collect() as found:
        reader.read(item, Files(reader.archive, item))
    assert any("--harmonised" in text for text in found.texts)
    reject("geotiff", tmp_path, "--harmonised", **{**options, "sensor": WITH})


def test_a_row_of_the_users_own_is_no_way_around(tmp_path: Path):
    row = {**get_sensor(WITHOUT).row(), "id": "mine"}
    (tmp_path / "mine.json").write_text(json.dumps(row))
    image(tmp_path / "in" / f"{NEW}.tif")
    reject("geotiff", tmp_path / "in", "N0400", sensor=str(tmp_path / "mine.json"))


def test_pixels_that_look_like_an_offset_are_noted(tmp_path: Path):
    cube = np.random.default_rng(0).integers(1003, 5000, (12, 8, 8)).astype(np.uint16)
    tiny_archives.write(tmp_path / "chip.tif", cube)
    reader = make_reader("geotiff", tmp_path, sensor=WITHOUT)
    (item,) = reader.items()
    with remarks.collect() as found:
        reader.read(item, Files(reader.archive, item))
    assert any("no value below 1000" in text for text in found.texts)
