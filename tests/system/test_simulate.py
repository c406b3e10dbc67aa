"""`data_prep.simulate`: the archive's files, determinism, splits, and land uses that differ in
arrangement only.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio

from data_prep import simulate
from data_prep.__main__ import main
from data_prep.simulation import acquisition, files, landscape, spectra, splits
from eo_jax.sensors import ENMAP, check_wavelengths

LOCATIONS, SIZE = 10, 16


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("simulated")
    simulate.simulate_archive(root, locations=LOCATIONS, size=SIZE, workers=1)
    return root


@pytest.fixture(scope="module")
def locations() -> list[acquisition.Location]:
    return [acquisition.make_location(0, index, SIZE) for index in range(400)]


def images(root: Path) -> list[Path]:
    return sorted((root / "enmap").glob("*/*.tif"))


def lines(root: Path, split: str) -> list[str]:
    return (root / "splits" / f"{split}.txt").read_text().splitlines()


# --- files


def test_the_layout_is_spectral_earths_and_nothing_else_is_left_behind(archive):
    names = [path.relative_to(archive / "enmap").as_posix() for path in images(archive)]
    assert len({name[:7] for name in names}) == LOCATIONS
    assert all(re.fullmatch(r"\d{7}/\d{5}\.tif", name) for name in names)
    expected = {f"{kind}/{name}" for kind in ("enmap", "landuse") for name in names}
    expected |= {"simulate.json", "landuse/classes.csv", "splits/train.txt", "splits/val.txt"}
    assert set(contents(archive)) == expected


def test_an_image_has_the_profile_of_an_enmap_tile(archive):
    with rasterio.open(images(archive)[0]) as file:
        assert (file.count, file.height, file.width, file.dtypes[0], file.nodata) == (
            202,
            SIZE,
            SIZE,
            "int16",
            -32768,
        )
        assert (file.profile["compress"], file.profile["interleave"]) == ("deflate", "band")
        assert file.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
        assert set(file.scales) == {1e-4}
        assert file.crs.is_projected and str(file.crs.to_epsg())[:3] in ("326", "327")
        assert (file.transform.a, file.transform.b, file.transform.d, file.transform.e) == (
            30,
            0,
            0,
            -30,
        )
        assert datetime.datetime.fromisoformat(file.tags()["start_time"]).year in (2022, 2023, 2024)
        assert file.tags(202)["wavelength_units"] == "Nanometers"
        assert float(file.tags(1)["fwhm"]) == pytest.approx(ENMAP.bands[0].fwhm_nm)


def test_band_tags_are_the_sensors_bands_moved_once_a_camera(archive):
    vnir = np.array([number <= 91 for number in ENMAP.band_numbers])
    for path in images(archive):
        with rasterio.open(path) as file:
            found = np.array([float(file.tags(band)["wavelength"]) for band in file.indexes])
        check_wavelengths(ENMAP, found, str(path))
        shift = found - ENMAP.centres_nm
        assert np.abs(shift).max() < 0.5
        assert np.ptp(shift[vnir]) < 0.002 and np.ptp(shift[~vnir]) < 0.002
        assert shift[vnir].mean() != pytest.approx(shift[~vnir].mean(), abs=0.002)


def test_a_label_map_has_its_images_grid_and_listed_classes(archive):
    with open(archive / "landuse" / "classes.csv", newline="") as file:
        names = {int(row["code"]): row["name"] for row in csv.DictReader(file)}
    assert list(names) == list(range(1, 10)) and len(set(names.values())) == 9
    for path in images(archive):
        with (
            rasterio.open(path) as image,
            rasterio.open(archive / "landuse" / path.relative_to(archive / "enmap")) as labels,
        ):
            assert (labels.transform, labels.crs, labels.shape, labels.count) == (
                image.transform,
                image.crs,
                image.shape,
                1,
            )
            assert labels.dtypes == ("uint8",)
            assert set(np.unique(labels.read(1))) <= {0, *names}


def test_labels_are_zero_where_pixels_are_missing_and_only_there():
    cut, holed, total = 0, 0, 150
    for index in range(total):
        location = acquisition.make_location(0, index, SIZE)
        pixels, labels = acquisition.observe(
            0,
            location,
            location.scenes[0],
            landscape.make_landscape(acquisition.stream(0, acquisition.GROUND, index), SIZE),
        )
        missing = pixels == ENMAP.nodata
        np.testing.assert_array_equal(labels == 0, missing.any(0))
        corners = missing.all(0)[[0, 0, -1, -1], [0, -1, 0, -1]]
        cut += bool(corners.any() and missing.any(0).sum() > 6)
        holed += bool(0 < missing.any(0).sum() <= 6)
    assert 0.03 < cut / total < 0.14
    assert 0.01 < holed / total < 0.12


# --- determinism and completion


def test_bytes_depend_on_neither_workers_nor_the_number_of_locations(archive, tmp_path):
    simulate.simulate_archive(tmp_path, locations=3, size=SIZE, workers=2)
    few, many = contents(tmp_path), contents(archive)
    same = [name for name in few if name.endswith(".tif")]
    assert len(same) >= 6
    assert all(few[name] == many[name] for name in same)


def test_another_seed_is_another_archive(archive, tmp_path):
    simulate.simulate_archive(tmp_path, locations=2, size=SIZE, seed=1, workers=1)
    with rasterio.open(images(tmp_path)[0]) as file, rasterio.open(images(archive)[0]) as other:
        assert not np.array_equal(file.read(), other.read())


def test_a_second_run_writes_what_is_absent_and_leaves_the_rest(tmp_path):
    first = simulate.simulate_archive(tmp_path, locations=3, size=SIZE, workers=1)
    before = contents(tmp_path)
    gone, kept = images(tmp_path)[0], images(tmp_path)[-1]
    gone.rename(gone.with_name(gone.name + ".partial"))  # as left by an interrupted write
    os.utime(kept, (1, 1))
    assert first == len(images(tmp_path)) + 1
    assert simulate.simulate_archive(tmp_path, locations=3, size=SIZE, workers=1) == 1
    assert contents(tmp_path) == before
    assert kept.stat().st_mtime == 1


def test_a_larger_number_extends_and_moves_no_location_between_splits(archive, tmp_path):
    simulate.simulate_archive(tmp_path, locations=2, size=SIZE, workers=1)
    small = {split: lines(tmp_path, split) for split in ("train", "val")}
    simulate.simulate_archive(tmp_path, locations=LOCATIONS, size=SIZE, workers=1)
    assert contents(tmp_path) == contents(archive)
    assert all(small[split] == lines(archive, split)[: len(small[split])] for split in small)


def test_a_failed_write_leaves_no_file_under_its_name(tmp_path, monkeypatch):
    def stop(path, **_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_write_enmap", stop)
    with pytest.raises(KeyboardInterrupt):
        simulate.simulate_archive(tmp_path, locations=2, size=SIZE, workers=1)
    assert not list(tmp_path.rglob("*.tif")) and not list(tmp_path.rglob("*.txt"))


# --- splits, dates and scenes


def test_all_dates_of_a_location_are_in_one_split(archive):
    train, val = lines(archive, "train"), lines(archive, "val")
    assert sorted(train + val) == [
        path.relative_to(archive / "enmap").as_posix() for path in images(archive)
    ]
    assert {line[:7] for line in train}.isdisjoint(line[:7] for line in val)


@pytest.mark.parametrize("seed", range(4))
def test_one_location_in_five_is_for_validation_and_two_are_enough_for_both_splits(seed):
    sides = [splits.is_validation(seed, index) for index in range(1000)]
    assert sum(sides) == 200
    assert set(sides[:2]) == {True, False}


def test_some_locations_have_several_dates_and_scenes_are_shared(locations):
    dates = np.array([len(location.scenes) for location in locations])
    assert set(dates) == {1, 2, 3}
    assert 0.17 < np.mean(dates > 1) < 0.40
    scenes = [scene.number for location in locations for scene in location.scenes]
    assert len(set(scenes)) < len(scenes) / 2
    for location in locations:
        assert [scene.time for scene in location.scenes] == sorted(
            scene.time for scene in location.scenes
        )


def test_patches_of_a_region_do_not_overlap(locations):
    corners = [
        (location.region.epsg, *location.corner)
        for location in locations[: acquisition.LOCATIONS_PER_REGION]
    ]
    assert len(set(corners)) == acquisition.LOCATIONS_PER_REGION
    steps = np.diff(sorted({east for _, east, _ in corners}))
    assert (steps % (30 * SIZE) == 0).all()


def test_dates_of_a_location_share_the_map_and_differ_in_season():
    location = next(
        p for p in (acquisition.make_location(0, i, 32) for i in range(99)) if len(p.scenes) == 3
    )
    land = landscape.make_landscape(acquisition.stream(0, acquisition.GROUND, location.index), 32)
    seen = [acquisition.observe(0, location, scene, land) for scene in location.scenes]
    both = np.logical_and.reduce([labels > 0 for _, labels in seen])
    assert all((labels[both] == land.labels[both]).all() for _, labels in seen)
    assert not np.array_equal(seen[0][0], seen[1][0])


# --- physics


@pytest.fixture(scope="module")
def endmembers() -> dict[str, np.ndarray]:
    return spectra.library(ENMAP.centres_nm, np.random.default_rng(0))


def at(spectrum: np.ndarray, nm: float) -> float:
    return float(spectrum[np.abs(ENMAP.centres_nm - nm).argmin()])


def test_leaves_have_a_green_peak_a_red_edge_and_liquid_water(endmembers):
    for name in ("tree_lush", "crop_sparse", "grass_lush"):
        leaf = endmembers[name]
        assert at(leaf, 550) > 1.3 * max(at(leaf, 470), at(leaf, 675))
        assert at(leaf, 800) > 4 * at(leaf, 675)
        for dip, left, right in ((970, 900, 1070), (1200, 1100, 1270)):
            assert at(leaf, dip) < min(at(leaf, left), at(leaf, right))
        assert at(leaf, 1977) < 0.4 * at(leaf, 1650)


def test_straw_absorbs_by_cellulose_and_soil_by_clay(endmembers):
    straw, sand = endmembers["straw"], endmembers["sand"]
    assert at(straw, 2100) < 0.95 * min(at(straw, 2015), at(straw, 2210))
    assert at(straw, 2310) < 0.95 * at(straw, 2210)
    assert at(sand, 2206) < 0.99 * min(at(sand, 2150), at(sand, 2260))
    assert at(sand, 450) < at(sand, 650) < at(sand, 1650)


def test_water_is_dark_beyond_900_nm(endmembers):
    for name in ("clear_water", "turbid_water", "green_water"):
        assert endmembers[name][ENMAP.centres_nm > 900].max() < 0.01
        assert at(endmembers[name], 550) > 0.008
    assert at(endmembers["turbid_water"], 650) > 2 * at(endmembers["clear_water"], 650)


def test_every_reflectance_is_possible(endmembers):
    assert all(((values > 0) & (values < 0.75)).all() for values in endmembers.values())


def test_noise_is_worse_at_both_ends_of_the_spectrum():
    noise = spectra.noise_floor(ENMAP.centres_nm)
    assert at(noise, 420) > 2 * at(noise, 600)
    assert at(noise, 2440) > 2 * at(noise, 2200)


def test_air_residue_is_one_where_the_correction_was_right_and_marks_the_vapour_bands_where_not():
    np.testing.assert_array_equal(spectra.air_residue(ENMAP.centres_nm, 0.0, 0.0), 1.0)
    residue = spectra.air_residue(ENMAP.centres_nm, 0.2, 0.0)
    assert at(residue, 937) < 0.92 and at(residue, 1128) < 0.9
    assert at(residue, 670) == pytest.approx(1, abs=1e-6)


def test_the_sun_lights_slopes_that_face_it():
    east, north, up = sun = acquisition.sun_direction(50.0, 172)
    assert np.hypot(np.hypot(east, north), up) == pytest.approx(1)
    assert east > 0 > north
    assert acquisition.sun_direction(-35.0, 355)[1] > 0
    level = np.zeros((16, 16))
    land = landscape.make_landscape(acquisition.stream(0, acquisition.GROUND, 0), 16)
    dry = {**land.fractions, "water": level}
    slopes = {
        rise: dataclasses.replace(land, fractions=dry, slope_east=level, slope_north=level + rise)
        for rise in (-0.2, 0.0, 0.2)
    }
    lit = {rise: acquisition.illumination(slope, sun).mean() for rise, slope in slopes.items()}
    assert lit[0.0] == pytest.approx(1)
    assert lit[0.2] > 1 > lit[-0.2]  # ground that rises northward faces south, towards the sun


# --- land uses differ in arrangement


def covers_of(code: int, size: int = 48, draws: int = 40) -> tuple[dict[str, float], np.ndarray]:
    """Mean fraction of each cover, and object sizes in pixels, over many locations with equal
    roofs.
    """
    means: dict[str, list[float]] = {}
    sizes = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        site = landscape.Site(rng, size, rng.uniform(0, np.pi / 2), np.full(4, 0.25))
        ground = landscape.GROUND_OF[code](site)
        np.testing.assert_allclose(sum(ground.fractions.values()), 1, atol=1e-9)
        for name, share in ground.fractions.items():
            means.setdefault(name, []).append(share.mean())
        sizes.append(size * size / (ground.objects.max() + 1))
    return {name: float(np.mean(values)) for name, values in means.items()}, np.array(sizes)


@pytest.mark.parametrize(("coarse", "fine"), [(4, 5), (9, 8)])
def test_pairs_of_uses_have_the_same_covers_and_another_grain(coarse, fine):
    coarse_shares, coarse_sizes = covers_of(coarse)
    fine_shares, fine_sizes = covers_of(fine)
    assert coarse_shares.keys() == fine_shares.keys()
    for name in coarse_shares:
        assert coarse_shares[name] == pytest.approx(fine_shares[name], abs=0.08)
    assert coarse_sizes.min() > 4 * fine_sizes.max()


def test_orchard_and_wooded_pasture_have_the_same_covers_and_only_orchards_have_rows():
    orchard, _ = covers_of(3)
    pasture, _ = covers_of(6)
    for name in orchard:
        assert orchard[name] == pytest.approx(pasture[name], abs=0.1)
    assert row_strength(3) > 2 * row_strength(6)


def row_strength(code: int, size: int = 32) -> float:
    """Difference of the lag-4 autocorrelation of tree cover between the directions along and across
    the fields.
    """
    gaps = []
    for seed in range(30):
        site = landscape.Site(np.random.default_rng(seed), size, 0.0, np.full(4, 0.25))
        ground = landscape.GROUND_OF[code](site)
        tree = ground.fractions["tree"]
        block = tree[:9, :9] - tree[:9, :9].mean()
        gaps.append(
            abs((block[1:] * block[:-1]).mean() - (block[:, 1:] * block[:, :-1]).mean())
            / block.var()
        )
    return float(np.mean(gaps))


def test_patches_have_one_to_five_uses_and_all_classes_occur():
    maps = [
        landscape.make_landscape(acquisition.stream(0, acquisition.GROUND, index), 64).labels
        for index in range(60)
    ]
    counts = [len(np.unique(labels)) for labels in maps]
    assert 2 <= np.mean(counts) <= 4 and max(counts) <= 5
    assert set(np.unique(maps)) == set(landscape.CLASSES)


# --- errors and the command


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"locations": 1}, "--locations 1: expected 2 to"),
        ({"locations": simulate.MAX_LOCATIONS + 1}, "--locations .*: expected 2 to"),
        ({"size": 15}, "--size 15: expected 16 to"),
        ({"seed": -1}, "--seed -1: expected 0 to"),
        ({"workers": 0}, "--workers 0: expected 1 to"),
    ],
)
def test_an_argument_out_of_range_is_named_before_anything_is_written(tmp_path, wrong, message):
    output = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        simulate.simulate_archive(output, **({"locations": 2, "size": SIZE} | wrong))
    assert not output.exists()


def test_output_must_not_be_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(ValueError, match="is a file; expected a new folder"):
        simulate.simulate_archive(path, locations=2, size=SIZE)


@pytest.mark.parametrize(("field", "change"), [("seed", {"seed": 3}), ("size", {"size": 24})])
def test_an_archive_of_something_else_is_not_added_to(archive, field, change):
    before = contents(archive)
    with pytest.raises(
        ValueError, match=rf"simulate.json: {field} is \d+, expected \d+. Use the same"
    ):
        simulate.simulate_archive(
            archive, **({"locations": LOCATIONS, "size": SIZE, "workers": 1} | change)
        )
    assert contents(archive) == before


def test_a_smaller_number_is_refused(archive):
    with pytest.raises(
        ValueError,
        match=f"has location 0000009: --locations 4 found, {LOCATIONS} or more expected",
    ):
        simulate.simulate_archive(archive, locations=4, size=SIZE, workers=1)


def test_a_real_archive_is_not_mixed_with_simulated_files(tmp_path):
    (tmp_path / "enmap" / "0287155").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has locations but no simulate\.json"):
        simulate.simulate_archive(tmp_path, locations=2, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["enmap"]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_marker_is_reported(tmp_path, text):
    (tmp_path / "simulate.json").write_text(text)
    with pytest.raises(ValueError, match=r"simulate\.json: .*give another --output"):
        simulate.simulate_archive(tmp_path, locations=2, size=SIZE)


def test_the_command_writes_an_archive_and_says_so(tmp_path, capsys):
    words = [
        "simulate",
        "--output",
        str(tmp_path),
        "--locations",
        "2",
        "--size",
        str(SIZE),
        "--workers",
        "1",
    ]
    assert main(words) == 0
    assert re.search(r": [2-6] patches written, 2 locations complete", capsys.readouterr().out)
    assert json.loads((tmp_path / "simulate.json").read_text())["seed"] == 0
    assert main(words) == 0
    assert ": 0 patches written, 2 locations complete" in capsys.readouterr().out


def test_the_command_says_what_is_wrong_and_fails(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["simulate", "--output", str(tmp_path / "out"), "--size", "8"]) == 1
    assert main(["simulate", "--output", str(blocked / "below")]) == 1
    shown = capsys.readouterr().err
    assert "--size 8: expected 16" in shown
    assert "cannot be written" in shown and "choose a folder" in shown


def test_progress_is_reported_for_every_location(tmp_path):
    told = []
    simulate.simulate_archive(
        tmp_path,
        locations=3,
        size=SIZE,
        workers=1,
        advance=lambda units, size: told.append((units, size)),
    )
    assert [units for units, _ in told] == [1, 1, 1]
    assert sum(size for _, size in told) == sum(path.stat().st_size for path in images(tmp_path))
