"""`data_prep simulate --archive`: the archives of downstream tasks are read by their readers, and
their labels say what is in the images.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep import simulate
from data_prep.__main__ import main
from data_prep.simulation import acquisition, landscape, layouts, splits
from eo_jax.data.store.reader import open_store
from eo_jax.schema import Sample

LOCATIONS, SIZE = 6, 32
CONVERT = {
    "enmap-corine": ("spectral-earth-downstream", "--task", "enmap_corine"),
    "hyperview": ("hyperview",),
    "oscd": ("oscd", "--patch-size", "32"),
    "spectral-earth": ("spectral-earth", "--labels", "landuse"),
}


ALL = pytest.mark.parametrize("name", sorted(CONVERT))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """name -> (the archive, its store)"""

    @functools.cache
    def make(name: str) -> tuple[Path, Path]:
        root = tmp_path_factory.mktemp(name)
        simulate.simulate_archive(root / "in", LOCATIONS, SIZE, workers=1, archive=name)
        arguments = ["convert", *CONVERT[name], "--input", str(root / "in"), "--workers", "1"]
        assert main([*arguments, "--output", str(root / "store")]) == 0
        return root / "in", root / "store"

    return make


def test_every_archive_is_covered():
    assert layouts.names() == sorted(CONVERT)


@ALL
def test_no_location_is_in_two_splits(simulated, name):
    store = open_store(simulated(name)[1])
    splits_there = store.manifest["splits"]
    groups = [set(store.index["group"][store.in_split(split)]) for split in splits_there]
    assert len(groups) >= 2 and all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups)) == LOCATIONS


@ALL
def test_a_second_run_writes_nothing(simulated, name):
    assert (
        simulate.simulate_archive(simulated(name)[0], LOCATIONS, SIZE, workers=1, archive=name) == 0
    )


@ALL
def test_another_archive_in_the_same_folder_is_refused(simulated, name):
    other = next(other for other in layouts.names() if other != name)
    with pytest.raises(ValueError, match=f"archive is {name}, expected {other}"):
        simulate.simulate_archive(simulated(name)[0], LOCATIONS, SIZE, workers=1, archive=other)


def test_corine_labels_are_the_land_uses_of_the_same_ground(simulated):
    root, store = simulated("enmap-corine")
    samples = list(open_store(store))
    lists = [p.read_text().splitlines() for p in (root / "splits").glob("enmap_corine/*.txt")]
    assert len(lists) == 3 and sum(map(len, lists)) == len(samples)
    # water, broadleaf forest, orchard, arable land, complex cultivation, pasture, urban, industry
    places = {1: 17, 2: 8, 3: 3, 4: 2, 5: 5, 6: 4, 7: 0, 8: 0, 9: 1}
    for sample in samples:
        index = int(sample.id.split("/")[0])
        land = landscape.make_landscape(acquisition.stream(0, acquisition.GROUND, index), SIZE)
        labelled = land.labels[~(sample.pixels == -32768).any(0)]
        expected = {places[code] for code in np.unique(labelled).tolist()}
        assert set(np.flatnonzero(sample.labels["multilabel"])) == expected


def test_numbers_of_fields_can_be_told_from_their_spectra(simulated):
    root, store = simulated("hyperview")
    samples = list(open_store(store))
    rows = {}
    for split in ("train", "val"):
        with (root / f"{split}.csv").open() as file:
            rows |= {int(row["sample_index"]): row for row in csv.DictReader(file)}
    for sample in samples:
        expected = [float(rows[int(sample.id)][column]) for column in ("P", "K", "Mg", "pH")]
        np.testing.assert_allclose(sample.labels["targets"], expected, rtol=1e-5)
        assert sample.pixels.shape == (150, SIZE, SIZE) and sample.pixels.dtype == np.int16
    # More green crops, more near infrared (beyond 800 nm) for each unit of red (around 670 nm).
    ratio = [s.pixels[105:].mean() / s.pixels[62:68].mean() for s in samples]
    green = [s.labels["targets"][0] for s in samples]
    assert np.corrcoef(np.log(ratio), green)[0, 1] > 0.8


def test_what_was_built_on_differs_more_than_the_rest(simulated):
    by_place: dict[str, list[Sample]] = {}
    for sample in open_store(simulated("oscd")[1]):
        by_place.setdefault(sample.group, []).append(sample)
    changed, unchanged = [], []
    for before, after in by_place.values():
        assert before.time < after.time
        np.testing.assert_array_equal(before.labels["change"], after.labels["change"])
        assert set(np.unique(before.labels["change"])) <= {1, 2}
        vegetation = [_ndvi(date.pixels.astype(float)) for date in (before, after)]
        is_built = before.labels["change"] == 2
        changed.append((vegetation[0] - vegetation[1])[is_built])
        unchanged.append((vegetation[0] - vegetation[1])[~is_built])
    changed, unchanged = np.concatenate(changed), np.concatenate(unchanged)
    assert 0.03 < len(changed) / (len(changed) + len(unchanged)) < 0.5
    # Plants give way to buildings; seasons differ in both directions.
    assert changed.mean() > abs(unchanged.mean()) + 0.05


def _ndvi(pixels: np.ndarray) -> np.ndarray:
    red, near_infrared = pixels[3], pixels[7]
    return (near_infrared - red) / (near_infrared + red)


@pytest.mark.parametrize("count", [3, 7, 25])
def test_every_split_has_a_location_however_few_there_are(count):
    found = [splits.split_of(0, index) for index in range(count)]
    assert {"train", "val", "test"} == set(found)
    assert found == [splits.split_of(0, index) for index in range(25)][:count]


def test_too_few_locations_are_refused_with_the_number_that_is_enough(tmp_path):
    with pytest.raises(ValueError, match="--locations 2: expected 3 to"):
        simulate.simulate_archive(tmp_path / "a", 2, SIZE, workers=1, archive="enmap-corine")


def test_an_unknown_archive_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="expected one of enmap-corine, hyperview, oscd"):
        simulate.simulate_archive(tmp_path / "a", 3, SIZE, archive="landsat")
