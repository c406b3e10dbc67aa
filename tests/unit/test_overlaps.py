"""Footprints that show the same ground, against areas counted point by point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from rasterio.transform import from_origin

from data_prep.__main__ import main
from data_prep.conversion import overlaps
from data_prep.conversion.overlaps import join_overlapping, leaks, overlapping
from data_prep.formats.footprint import footprint
from eo_jax.data import open_store
from tests import layouts
from tests.layouts.hsi_scene import table


def square(x: float, y: float, side: float = 1.0, turn: float = 0.0) -> list[float]:
    """A square [8] around (x, y), turned by some degrees."""
    angles = np.radians(turn + np.array([45, 135, 225, 315]))
    radius = side / np.sqrt(2)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], -1).ravel().tolist()


def inside(quad: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points [n, 2] lie in a convex quadrangle [4, 2]."""
    edges = np.roll(quad, -1, axis=0) - quad
    sides = [
        edge[0] * (points[:, 1] - corner[1]) - edge[1] * (points[:, 0] - corner[0])
        for edge, corner in zip(edges, quad, strict=True)
    ]
    return (np.array(sides) >= 0).all(0) | (np.array(sides) <= 0).all(0)


def test_pairs_are_those_whose_common_area_is_more_than_a_sliver():
    """At the equator, where degrees are alike in both directions."""
    rng = np.random.default_rng(0)
    quads = np.array(
        [
            square(*rng.uniform(-1.5, 1.5, 2), rng.uniform(0.5, 1.5), rng.uniform(0, 90))
            for _ in range(40)
        ]
    )
    points = rng.uniform(-3, 3, (200_000, 2))
    covered = np.array([inside(quad.reshape(4, 2), points) for quad in quads])
    common = (covered[:, None] & covered[None]).sum(-1)
    smaller = np.minimum(common.diagonal()[:, None], common.diagonal()[None])
    found = np.zeros(common.shape, bool)
    for one, other in overlapping(quads, np.arange(len(quads))):
        found[one, other] = found[other, one] = True
    np.fill_diagonal(common, 0)
    assert found[common > 0.03 * smaller].all()
    assert not found[common == 0].any()
    assert 100 < found.sum() < 1500


@pytest.mark.parametrize("latitude", [0.0, 52.0, 78.0])
def test_tiles_of_a_grid_only_touch(latitude: float):
    """In UTM, whose grid is turned against meridians."""
    epsg = 32633
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", f"EPSG:{epsg}", [17.8], [latitude])
    tiles = {
        f"{row}_{column}": [
            footprint(
                f"EPSG:{epsg}",
                tuple(from_origin(x + 1280 * column, y - 1280 * row, 10, 10))[:6],
                128,
                128,
            )
        ]
        for row in range(4)
        for column in range(4)
    }
    ground = join_overlapping(tiles)
    assert len(set(ground.values())) == 16
    shifted = {
        f"again {name}": [[value + 0.002 * (n % 2 == 0) for n, value in enumerate(corners)]]
        for name, (corners,) in tiles.items()
    }
    assert len(set(join_overlapping(tiles | shifted).values())) < 16


def test_a_chain_of_overlaps_is_one_ground_and_the_180th_meridian_is_no_edge():
    chain = {f"{n}": [square(0.6 * n, 10)] for n in range(5)}
    far = {"far": [square(30, 10)]}
    assert len(set(join_overlapping(chain | far).values())) == 2
    across = square(179.9, 10)
    wrapped = [(value + 180) % 360 - 180 if n % 2 == 0 else value for n, value in enumerate(across)]
    assert len(set(join_overlapping({"a": [across], "b": [wrapped]}).values())) == 1


def test_leaks_are_counted_outside_training():
    places = [square(0, 0), square(0.5, 0), square(5, 5), None, square(5.2, 5)]
    assert leaks(places, ["train", "val", "train", "val", "train"]) == {"val": 1}
    assert leaks(places, ["train"] * 5) == {}
    assert leaks([None, None], ["train", "val"]) == {}


def test_dates_of_one_footprint_are_all_counted_at_the_cost_of_one(monkeypatch):
    compared = []

    def all_overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        compared.append(len(one))
        return np.ones(len(one), bool)

    monkeypatch.setattr(overlaps, "_overlap", all_overlap)
    dates = 1000
    places = [square(1, 1)] * dates + [square(1.5, 1)] * dates
    assert leaks(places, ["train"] * dates + ["val"] * dates) == {"val": dates}
    assert join_overlapping({"a": places[:dates], "b": places[dates:]}) == {"a": "a", "b": "a"}
    assert sum(compared) < 20


def test_many_footprints_in_a_cell_are_compared_some_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    quads, kinds = [square(*rng.uniform(0, 1, 2)) for _ in range(50)], rng.integers(0, 9, 50)
    expected = set(overlapping(np.array(quads), kinds))
    monkeypatch.setattr(overlaps, "_PAIRS_AT_ONCE", 60)
    assert set(overlapping(np.array(quads), kinds)) == expected
    assert len(expected) > 100


# ------------------------------------------------------------------ the command


def two_dates_of_twelve_sites(root: Path) -> None:
    for site in range(12):
        for day in ("20200101", "20210101"):
            tiny_archives.write(
                root / f"site{site:02}_{day}.tif",
                np.full((5, 16, 16), 100 + site, np.uint16),
                crs="EPSG:32633",
                transform=from_origin(400000 + 1000 * site, 5800000, 10, 10),
            )


def convert(root: Path, out: Path, *options: str) -> int:
    return main(
        [
            *("convert", "geotiff", "--input", str(root), "--output", str(out), "--workers", "1"),
            *("--sensor", table(root.parent), *options),
        ]
    )


def splits_of(out: Path) -> dict[str, set[str]]:
    store = open_store(out)
    found: dict[str, set[str]] = {}
    for name, split in zip(store.index["id"], store.index["split"], strict=True):
        found.setdefault(str(name)[:6], set()).add(str(split))
    return found


def test_dates_of_one_ground_go_to_one_split(tmp_path: Path, capsys: pytest.CaptureFixture):
    two_dates_of_twelve_sites(tmp_path / "in")
    assert convert(tmp_path / "in", tmp_path / "out", "--val-fraction", "0.3") == 0
    assert "24 locations show 12 places" in capsys.readouterr().err
    splits = splits_of(tmp_path / "out")
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "val"}
    assert open_store(tmp_path / "out").manifest["shared_ground"] == {}


def test_who_asks_for_it_gets_overlaps_counted(tmp_path: Path, capsys: pytest.CaptureFixture):
    two_dates_of_twelve_sites(tmp_path / "in")
    options = ("--val-fraction", "0.5", "--allow-overlap")
    assert convert(tmp_path / "in", tmp_path / "out", *options) == 0
    both = sum(len(found) == 2 for found in splits_of(tmp_path / "out").values())
    assert both > 0
    manifest = open_store(tmp_path / "out").manifest
    assert manifest["shared_ground"] == {"val": both}
    total = manifest["splits"]["val"]
    warning = f"WARNING {both} of {total} samples of val show ground of another split"
    assert warning in capsys.readouterr().out


def test_overlaps_across_the_edge_of_a_block_go_to_one_split(tmp_path: Path):
    """Pairs of images, half of each on the same ground, every second pair across an edge."""
    for pair in range(10):
        for half in range(2):
            tiny_archives.write(
                tmp_path / "in" / f"site{pair:02}_{half}.tif",
                np.full((5, 16, 16), 100, np.uint16),
                crs="EPSG:32633",
                transform=from_origin(400000 + 500 * pair + 80 * half, 5800000, 10, 10),
            )
    options = ("--split", "blocks:0.4", "--val-fraction", "0.4")
    assert convert(tmp_path / "in", tmp_path / "out", *options) == 0
    splits = splits_of(tmp_path / "out")
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "val"}
    apart = (*options, "--allow-overlap")
    assert convert(tmp_path / "in", tmp_path / "apart", *apart) == 0
    assert any(len(found) == 2 for found in splits_of(tmp_path / "apart").values())


@pytest.mark.parametrize("reader", ["eurosat", "hyspecnet11k", "l8biome"])
def test_any_reader_of_geotiffs_joins_overlapping_images(
    tmp_path: Path, capsys: pytest.CaptureFixture, reader: str
):
    """All images of the tiny archive on one spot, so nothing is left to draw."""
    options = layouts.write(reader, tmp_path / "in")
    for path in (tmp_path / "in").rglob("*.[tT][iI][fF]*"):
        with rasterio.open(path, "r+") as file:
            file.crs, file.transform = "EPSG:32633", from_origin(400000, 5800000, 10, 10)
    command = ["convert", reader, "--input", str(tmp_path / "in"), "--val-fraction", "0.3"]
    command += ["--output", str(tmp_path / "out"), "--workers", "1"]
    command += ["--splits", "none"] if reader == "hyspecnet11k" else []
    command += ["--patch-size", str(options["patch_size"])] if "patch_size" in options else []
    main(command)
    assert "because footprints overlap" in capsys.readouterr().err
