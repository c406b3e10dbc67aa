"""GEO-Bench v1: bands by name, labels without unpickling, published lists."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from layouts import geobench, make_reader, read_all, reject

from data_prep.readers._geobench_tasks import TASKS
from eo_jax.sensors import get_sensor


def one(root: Path, task: str, arrays: dict[str, np.ndarray], label=None, **more) -> Path:
    """A task of one sample."""
    geobench.write_sample(root / task / "s.hdf5", arrays, label, **more)
    geobench.write_lists(root / task, {"train": ["s"], "valid": [], "test": []})
    return root


def test_eurosat_has_its_bands_by_what_they_are(tmp_path):
    """The names in the files are shifted from the ninth on; B8A is in "12 - SWIR"."""
    geobench.write(tmp_path)
    first, *_, last = read_all("geobench", tmp_path)
    assert (first.id, first.sensor, first.pixels.dtype) == ("id_0", "sentinel2_l1c", np.uint16)
    assert first.labels == {"class": 1} and last.labels == {"class": 5}
    names = [band.name for band in get_sensor("sentinel2_l1c").bands]
    arrays = geobench.bands("m-eurosat", 0)
    files = {"B4": "04 - Red", "B8A": "12 - SWIR", "B9": "08A - Vegetation Red Edge"}
    files |= {"B10": "09 - Water vapour", "B11": "10 - SWIR - Cirrus", "B12": "11 - SWIR"}
    for band, file in files.items():
        np.testing.assert_array_equal(first.pixels[names.index(band)], arrays[file])


def test_the_lists_are_the_splits_and_what_is_in_none_is_left_out(tmp_path):
    geobench.write(tmp_path)
    splits = {item.id: item.split for item in make_reader("geobench", tmp_path).items()}
    assert splits == {"id_0": "train", "id_1": "train", "id_2": "train", "id_3": "val"} | {
        "id_4": "test",
        "id_unlisted": "unlisted",
    }
    part = {"train": ["id_1"], "valid": ["id_3"], "test": ["id_4"]}
    geobench.write_lists(tmp_path / "classification_v1.0" / "m-eurosat", part, "0.50x_train")
    found = read_all("geobench", tmp_path, partition="0.50x_train")
    assert [sample.id for sample in found] == ["id_1", "id_3", "id_4"]
    folder = tmp_path / "classification_v1.0" / "m-eurosat"
    assert len(read_all("geobench", folder, task="m-eurosat")) == 5


@pytest.mark.parametrize(
    ("task", "codes", "stored"),
    [
        ("m-pv4ger-seg", [0, 1], [1, 2]),
        ("m-cashew-plant", [0, 1, 6], [0, 1, 6]),
        ("m-chesapeake", [0, 5, 6], [1, 6, 0]),
    ],
)
def test_codes_of_maps_count_from_1(tmp_path, task, codes, stored):
    arrays = geobench.bands(task, 0)
    if task != "m-cashew-plant":
        arrays = {name: (array % 200).astype(np.uint8) for name, array in arrays.items()}
    if task == "m-chesapeake":
        arrays = {name: (array / 255).astype(np.float32) for name, array in arrays.items()}
    label = np.resize(codes, (16, 16)).astype(np.uint8)
    dated = {f"{name}_2019-11-05": array for name, array in arrays.items()}
    extra = {"Cloud Probability": np.zeros((16, 16), np.uint8)}
    (sample,) = read_all("geobench", one(tmp_path, task, dated | {"label": label} | extra))
    np.testing.assert_array_equal(sample.labels["landcover"], np.resize(stored, (16, 16)))
    assert sample.time == 1572912000 and sample.sensor == TASKS[task].sensor.id


def test_several_labels_and_coarser_bands(tmp_path):
    arrays = geobench.bands("m-bigearthnet", 0)
    arrays["01 - Coastal aerosol"] = np.full((8, 8), 500, np.int16)
    label = np.isin(np.arange(43), (2, 40)).astype(np.int64)
    (sample,) = read_all("geobench", one(tmp_path, "m-bigearthnet", arrays, label))
    np.testing.assert_array_equal(sample.labels["multilabel"], label)
    assert sample.labels["multilabel"].dtype == np.uint8
    assert sample.pixels.shape == (12, 16, 16) and (sample.pixels[0] == 500).all()


def test_so2sat_keeps_its_floats(tmp_path):
    arrays = {name: a / 10_000 for name, a in geobench.bands("m-so2sat", 0).items()}
    arrays["01 - VH.Real"] = np.zeros((16, 16))
    (sample,) = read_all("geobench", one(tmp_path, "m-so2sat", arrays, np.int64(16)))
    assert (sample.sensor, sample.labels["class"]) == ("sentinel2_so2sat_float64", 17)


BANDS = geobench.bands("m-eurosat", 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"arrays": {k: v for k, v in BANDS.items() if k != "04 - Red"}}, ["no band '04 - Red'"]),
        ({"arrays": BANDS | {"04 - Red": np.ones((5, 16))}}, ["multiple of the other"]),
        ({"arrays": BANDS | {"04 - Red": np.full((16, 16), np.nan)}}, ["NaN or infinite"]),
        ({"arrays": BANDS | {"04 - Red_2019-01-01": BANDS["04 - Red"]}}, ["of two dates"]),
        ({"label": 10}, ["label is 10", "0 to 9", "--task"]),
        ({"label": "River"}, ["not unpickled", "convert the original set"]),
        ({"label": geobench.Sentinel2("x")}, ["not a number", "not unpickled"]),
        ({"pickled": b"(lp0\n."}, ["not a dict"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changed, words):
    given = {"arrays": BANDS, "label": 3} | changed
    reject("geobench", one(tmp_path, "m-eurosat", **given), "s.hdf5", *words)


def test_an_attribute_that_is_not_text_of_bytes_is_refused(tmp_path):
    one(tmp_path, "m-eurosat", BANDS, 3)
    for text in ("[" * 100_000, "__import__('os')", "b'" + "a" * 5_000_000):
        with h5py.File(tmp_path / "m-eurosat" / "s.hdf5", "r+") as file:
            file.attrs["pickle"] = text
        reject("geobench", tmp_path, "s.hdf5", "not the text of bytes")


@pytest.mark.parametrize(
    ("lists", "word"),
    [
        ("{", "not JSON"),
        ({"train": []}, "has not the lists"),
        ({"train": ["a"], "valid": ["a"], "test": []}, "in another list"),
        ({"train": [1], "valid": [], "test": []}, "not a list of names"),
        ({"train": ["b"], "valid": [], "test": []}, "without a file"),
    ],
)
def test_wrong_lists(tmp_path, lists, word):
    one(tmp_path, "m-eurosat", BANDS, 3)
    text = lists if isinstance(lists, str) else json.dumps(lists)
    (tmp_path / "m-eurosat" / "default_partition.json").write_text(text)
    reject("geobench", tmp_path, "default_partition.json", word)


def test_several_tasks_need_a_name(tmp_path):
    one(one(tmp_path, "m-eurosat", BANDS, 3), "m-so2sat", geobench.bands("m-so2sat", 0), 3)
    reject("geobench", tmp_path, "m-eurosat, m-so2sat", "--task")
    assert len(read_all("geobench", tmp_path, task="m-so2sat")) == 1
